//! Signing keys: made, read once, and then used for as long as they live. One key signs with one algorithm (RFC 8725 3.1).

use std::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use serde::Serialize;
use zeroize::Zeroizing;

use super::jwks::{Curve, Material, PublicJwk};
use super::{BASE64URL, Sealed, SealingKey, TokenError};
use crate::model::audit::{AuditKey, AuditKeyState};
use crate::model::client::TokenTyp;
use crate::model::key::{KeyRecord, KeyState, SigningAlg};
use crate::model::{Digest, IssuerId, Timestamp};
use crate::seams::Entropy;

/// What one signature costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningCost {
    /// Tens of microseconds: may be done where one stands.
    Small,
    /// About half a millisecond (RSA): belongs on a thread that may block.
    Large,
}

/// A private key, parsed once and ready to sign.
pub struct SigningKey {
    alg: SigningAlg,
    kid: String,
    /// Its name here, where it signs under another.
    stored_kid: String,
    half: PrivateHalf,
    headers: Headers,
}

/// The private half with the one way it signs.
pub(super) enum PrivateHalf {
    Rsa { pair: RsaKeyPair, padding: &'static dyn RsaEncoding },
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// The encoded headers, each followed by a dot: they depend on the key and the `typ` alone.
struct Headers {
    logout_jwt: String,
    security_event: String,
    introspection: String,
    jwt: String,
    none: String,
}

/// How an algorithm's keys are made and used.
#[derive(Clone, Copy)]
enum Family {
    Rsa(&'static dyn RsaEncoding),
    Ec(Curve, &'static EcdsaSigningAlgorithm),
    Ed25519,
}

fn family(alg: SigningAlg) -> Family {
    match alg {
        SigningAlg::Rs256 => Family::Rsa(&signature::RSA_PKCS1_SHA256),
        SigningAlg::Rs384 => Family::Rsa(&signature::RSA_PKCS1_SHA384),
        SigningAlg::Rs512 => Family::Rsa(&signature::RSA_PKCS1_SHA512),
        SigningAlg::Ps256 => Family::Rsa(&signature::RSA_PSS_SHA256),
        SigningAlg::Ps384 => Family::Rsa(&signature::RSA_PSS_SHA384),
        SigningAlg::Ps512 => Family::Rsa(&signature::RSA_PSS_SHA512),
        // Fixed length, R and S side by side (RFC 7518 3.4), not DER.
        SigningAlg::Es256 => Family::Ec(Curve::P256, &ECDSA_P256_SHA256_FIXED_SIGNING),
        SigningAlg::Es384 => Family::Ec(Curve::P384, &ECDSA_P384_SHA384_FIXED_SIGNING),
        SigningAlg::EdDsa => Family::Ed25519,
    }
}

/// A key pair fresh from the generator: the public half to publish, the private half to seal.
pub struct NewKey {
    /// Its name: the RFC 7638 thumbprint.
    pub kid: String,
    /// The one algorithm it signs with.
    pub alg: SigningAlg,
    /// The public half as a JWK in JSON, with `alg`, `use` and `kid`.
    pub public_jwk: String,
    /// The private half in PKCS#8.
    pub private: Zeroizing<Vec<u8>>,
}

/// Makes a key pair. RSA takes from tens of milliseconds to seconds: call it where blocking is allowed.
pub fn generate(alg: SigningAlg) -> Result<NewKey, TokenError> {
    let private = generate_pkcs8(alg).map_err(|_| TokenError::NotGenerated(alg))?;
    let material = PrivateHalf::from_pkcs8(alg, &private)?.public(alg)?;
    NewKey::of(material, alg, private)
}

fn generate_pkcs8(alg: SigningAlg) -> Result<Zeroizing<Vec<u8>>, aws_lc_rs::error::Unspecified> {
    let octets = match family(alg) {
        Family::Rsa(_) => RsaKeyPair::generate(KeySize::Rsa2048)?.as_der()?.as_ref().to_vec(),
        Family::Ec(_, curve) => EcdsaKeyPair::generate(curve)?.to_pkcs8v1()?.as_ref().to_vec(),
        Family::Ed25519 => Ed25519KeyPair::generate()?.to_pkcs8()?.as_ref().to_vec(),
    };
    Ok(Zeroizing::new(octets))
}

impl NewKey {
    /// A key under its thumbprint, from both its halves.
    pub(super) fn of(material: Material, alg: SigningAlg, private: Zeroizing<Vec<u8>>) -> Result<Self, TokenError> {
        let kid = material.thumbprint();
        let jwk = PublicJwk { material, kid: Some(kid.clone()), alg: Some(alg.as_str().to_owned()), key_use: Some("sig".to_owned()) };
        Ok(Self { kid, alg, public_jwk: jwk.checked()?.to_json(), private })
    }

    /// The same key under another name, such as the one its provider gave it.
    pub fn named(self, kid: &str) -> Result<Self, TokenError> {
        let jwk = PublicJwk { kid: Some(kid.to_owned()), ..PublicJwk::parse(&self.public_jwk)? };
        Ok(Self { kid: kid.to_owned(), public_jwk: jwk.to_json(), ..self })
    }

    /// The key as it is stored: its private half sealed for that issuer and that `kid`.
    pub fn into_record(self, issuer: IssuerId, state: KeyState, now: Timestamp, sealing: &SealingKey, entropy: &Entropy) -> KeyRecord {
        let sealed = sealing.seal(&Sealed::signing_key(&issuer, &self.kid), &self.private, entropy);
        KeyRecord { sealed, ..KeyRecord::new(issuer, self.kid, self.alg, state, self.public_jwk, now) }
    }

    /// The key as the audit trail stores it.
    pub fn into_audit_key(self, state: AuditKeyState, now: Timestamp, sealing: &SealingKey, entropy: &Entropy) -> AuditKey {
        let sealed = sealing.seal(&Sealed::audit_key(&self.kid), &self.private, entropy);
        let mac = Some(audit_key_mac(&self.kid, sealing));
        AuditKey { kid: self.kid, alg: self.alg, state, public_jwk: self.public_jwk, sealed, mac, created_at: now, retired_at: None }
    }
}

/// What says of a key of the trail that this server made it, when its private half does not say so any more. Its name is its thumbprint, so that nothing else
/// of its public half has to be in it.
pub(super) fn audit_key_mac(kid: &str, sealing: &SealingKey) -> Digest {
    sealing.keyed_digest("audit key", &[kid.as_bytes()])
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("kid", &self.kid).field("alg", &self.alg).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads a private key in PKCS#8. Refuses RSA below 2048 bits and a key of another kind or curve than the algorithm's. The `kid` is the caller's
    /// to choose, since an imported key keeps the name its provider gave it.
    pub fn from_pkcs8(alg: SigningAlg, kid: &str, pkcs8: &[u8]) -> Result<Self, TokenError> {
        let half = PrivateHalf::from_pkcs8(alg, pkcs8)?;
        half.public(alg)?;
        let headers = Headers::new(alg, kid);
        Ok(Self { alg, kid: kid.to_owned(), stored_kid: kid.to_owned(), half, headers })
    }

    /// Unseals and reads a stored key, and checks that what is published as its public half is.
    pub fn unseal(record: &KeyRecord, sealing: &SealingKey) -> Result<Self, TokenError> {
        let private = sealing.open(&Sealed::signing_key(&record.issuer, &record.kid), &record.sealed)?;
        let key = Self::from_pkcs8(record.alg, record.signing_kid(), &private)?;
        key.published_as(&record.kid, &record.public_jwk)
    }

    /// The same for a key of the audit trail.
    pub fn unseal_audit(record: &AuditKey, sealing: &SealingKey) -> Result<Self, TokenError> {
        let private = sealing.open(&Sealed::audit_key(&record.kid), &record.sealed)?;
        Self::from_pkcs8(record.alg, &record.kid, &private)?.published_as(&record.kid, &record.public_jwk)
    }

    fn published_as(self, kid: &str, public_jwk: &str) -> Result<Self, TokenError> {
        let published = PublicJwk::parse(public_jwk)?;
        let same = published.kid() == Some(kid)
            && published.alg() == Some(self.alg.as_str())
            && published.material == self.half.public(self.alg)?;
        if same { Ok(Self { stored_kid: kid.to_owned(), ..self }) } else { Err(TokenError::HalvesDiffer) }
    }

    /// Whether it was read from this record: a name given out elsewhere may pass from key to key.
    pub fn is_of(&self, record: &KeyRecord) -> bool {
        self.stored_kid == record.kid
    }

    /// The one algorithm it signs with.
    pub fn alg(&self) -> SigningAlg {
        self.alg
    }

    /// Its name in JOSE headers.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What one signature costs, so that the caller can choose where to make it.
    pub fn cost(&self) -> SigningCost {
        match self.half {
            PrivateHalf::Rsa { .. } => SigningCost::Large,
            PrivateHalf::Ec(_) | PrivateHalf::Ed25519(_) => SigningCost::Small,
        }
    }

    /// A compact JWS over a payload (RFC 7515 7.1), in one growing string.
    pub(super) fn sign_jws(&self, typ: TokenTyp, payload: &[u8]) -> Result<String, TokenError> {
        self.sign_under(self.headers.of(typ), payload)
    }

    /// A security event (RFC 8417 2.3).
    pub(super) fn sign_event(&self, payload: &[u8]) -> Result<String, TokenError> {
        self.sign_under(&self.headers.security_event, payload)
    }

    /// An answer to an introspection (RFC 9701 5).
    pub(super) fn sign_introspection(&self, payload: &[u8]) -> Result<String, TokenError> {
        self.sign_under(&self.headers.introspection, payload)
    }

    /// Something rare, whose header is made for it.
    pub(super) fn sign_as(&self, typ: &'static str, payload: &[u8]) -> Result<String, TokenError> {
        self.sign_under(&encoded_header(self.alg, Some(typ), &self.kid), payload)
    }

    fn sign_under(&self, header: &str, payload: &[u8]) -> Result<String, TokenError> {
        // Base64 takes four characters for three octets; one for each dot and one for each rounding.
        let mut token = String::with_capacity(header.len() + (payload.len() + self.half.signature_octets()) * 4 / 3 + 4);
        token.push_str(header);
        BASE64URL.encode_string(payload, &mut token);
        self.half.sign_onto(&mut token).map_err(|_| TokenError::NotSigned)?;
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).field("alg", &self.alg).finish_non_exhaustive()
    }
}

/// A header and the dot after it (RFC 7515 4.1). Never jku, jwk, x5u or x5c: whoever reads the token has our keys from our published set (Core 2).
fn encoded_header(alg: SigningAlg, typ: Option<&'static str>, kid: &str) -> String {
    #[derive(Serialize)]
    struct Header<'a> {
        alg: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        typ: Option<&'static str>,
        kid: &'a str,
    }
    let json = serde_json::to_vec(&Header { alg: alg.as_str(), typ, kid }).expect("strings always serialise");
    BASE64URL.encode(json) + "."
}

impl Headers {
    fn new(alg: SigningAlg, kid: &str) -> Self {
        let encode = |typ| encoded_header(alg, typ, kid);
        Self {
            logout_jwt: encode(Some("logout+jwt")),
            security_event: encode(Some("secevent+jwt")),
            introspection: encode(Some("token-introspection+jwt")),
            jwt: encode(Some("JWT")),
            none: encode(None),
        }
    }

    fn of(&self, typ: TokenTyp) -> &str {
        match typ {
            TokenTyp::LogoutJwt => &self.logout_jwt,
            TokenTyp::Jwt => &self.jwt,
            TokenTyp::None => &self.none,
        }
    }
}

impl PrivateHalf {
    pub(super) fn from_pkcs8(alg: SigningAlg, pkcs8: &[u8]) -> Result<Self, TokenError> {
        let unfit = |_| TokenError::Unfit(alg);
        match family(alg) {
            Family::Rsa(padding) => RsaKeyPair::from_pkcs8(pkcs8).map(|pair| Self::Rsa { pair, padding }).map_err(unfit),
            Family::Ec(_, curve) => EcdsaKeyPair::from_pkcs8(curve, pkcs8).map(Self::Ec).map_err(unfit),
            Family::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).map(Self::Ed25519).map_err(unfit),
        }
    }

    fn signature_octets(&self) -> usize {
        match self {
            Self::Rsa { pair, .. } => pair.public_modulus_len(),
            Self::Ec(_) | Self::Ed25519(_) => 96,
        }
    }

    /// Signs what the token holds so far and appends the signature to it.
    fn sign_onto(&self, token: &mut String) -> Result<(), aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa { pair, padding } => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, token.as_bytes(), &mut signature)?;
                append(token, &signature);
            }
            Self::Ec(pair) => append(token, pair.sign(&random, token.as_bytes())?.as_ref()),
            Self::Ed25519(pair) => append(token, pair.try_sign(token.as_bytes())?.as_ref()),
        }
        Ok(())
    }

    /// The public half's numbers, checked as any other public key is.
    pub(super) fn public(&self, alg: SigningAlg) -> Result<Material, TokenError> {
        let material = match (self, family(alg)) {
            (Self::Rsa { pair, .. }, _) => rsa_public_key(pair.public_key().as_ref()).map(|(n, e)| Material::Rsa { n, e }),
            (Self::Ec(pair), Family::Ec(curve, _)) => point(pair.public_key().as_ref(), curve),
            (Self::Ec(_), Family::Rsa(_) | Family::Ed25519) => None,
            (Self::Ed25519(pair), _) => Some(Material::Ed25519 { x: pair.public_key().as_ref().to_vec() }),
        };
        let material = material.ok_or(TokenError::Unfit(alg))?;
        let bare = PublicJwk { material, kid: None, alg: Some(alg.as_str().to_owned()), key_use: None };
        bare.checked().map(|jwk| jwk.material).map_err(|_| TokenError::Unfit(alg))
    }
}

fn append(token: &mut String, signature: &[u8]) {
    token.push('.');
    BASE64URL.encode_string(signature, token);
}

/// An uncompressed point (SEC 1 2.3.3).
fn point(octets: &[u8], curve: Curve) -> Option<Material> {
    let (x, y) = octets.strip_prefix(&[4])?.split_at_checked(curve.field_octets())?;
    Some(Material::Ec { curve, x: x.to_vec(), y: y.to_vec() })
}

/// Modulus and exponent of an `RSAPublicKey` in DER (RFC 8017 A.1.1), which is the only form the library tells them in.
fn rsa_public_key(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    let (body, []) = der_element(SEQUENCE, der)? else { return None };
    let (n, rest) = der_element(INTEGER, body)?;
    let (e, []) = der_element(INTEGER, rest)? else { return None };
    // A positive INTEGER whose first bit is set begins with a zero octet.
    let magnitude = |integer: &[u8]| integer.strip_prefix(&[0]).unwrap_or(integer).to_vec();
    Some((magnitude(n), magnitude(e)))
}

/// The content of the element that begins here, and what follows it. Lengths of up to two octets, which is far more than an RSA key has.
fn der_element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, content) = match der {
        [t, short @ 0..=0x7f, rest @ ..] if *t == tag => (usize::from(*short), rest),
        [t, 0x81, length, rest @ ..] if *t == tag => (usize::from(*length), rest),
        [t, 0x82, high, low, rest @ ..] if *t == tag => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    content.split_at_checked(length)
}

#[cfg(test)]
pub(in crate::token) mod tests {
    use std::collections::HashMap;
    use std::sync::LazyLock;

    use serde_json::Value;

    use super::*;

    /// One key of each algorithm, made once for all tests of this room: RSA takes its time.
    pub(in crate::token) fn key_pair(alg: SigningAlg) -> &'static (String, SigningKey) {
        static KEYS: LazyLock<HashMap<SigningAlg, (String, SigningKey)>> = LazyLock::new(|| {
            let made = |alg: &SigningAlg| {
                let new = generate(*alg).unwrap();
                let key = SigningKey::from_pkcs8(*alg, &new.kid, &new.private).unwrap();
                (*alg, (new.public_jwk, key))
            };
            SigningAlg::ALL.iter().map(made).collect()
        });
        &KEYS[&alg]
    }

    fn sealing() -> SealingKey {
        SealingKey::generate(&Entropy::seeded(1))
    }

    fn record(alg: SigningAlg) -> KeyRecord {
        let main = IssuerId::parse("main").unwrap();
        generate(alg).unwrap().into_record(main, KeyState::Active, Timestamp::from_seconds(1), &sealing(), &Entropy::seeded(2))
    }

    #[test]
    fn a_new_key_is_published_for_signing_with_one_algorithm_under_its_thumbprint() {
        for alg in SigningAlg::ALL {
            let (public_jwk, _) = key_pair(*alg);
            let parsed = PublicJwk::parse(public_jwk).unwrap();
            assert_eq!((parsed.kid(), parsed.alg(), parsed.key_use()), (Some(&*parsed.thumbprint()), Some(alg.as_str()), Some("sig")));
            let mut names: Vec<String> = serde_json::from_str::<Value>(public_jwk).unwrap().as_object().unwrap().keys().cloned().collect();
            names.retain(|name| !["kty", "alg", "use", "kid"].contains(&name.as_str()));
            let numbers: &[&str] = match family(*alg) {
                Family::Rsa(_) => &["e", "n"],
                Family::Ec(..) => &["crv", "x", "y"],
                Family::Ed25519 => &["crv", "x"],
            };
            assert_eq!(names, numbers, "{alg}");
        }
    }

    #[test]
    fn only_rsa_is_too_slow_to_sign_with_on_the_runtime() {
        for alg in SigningAlg::ALL {
            let expected = if matches!(family(*alg), Family::Rsa(_)) { SigningCost::Large } else { SigningCost::Small };
            assert_eq!(key_pair(*alg).1.cost(), expected, "{alg}");
        }
    }

    #[test]
    fn a_key_signs_with_an_algorithm_of_its_own_kind_and_curve_only() {
        let kinds = [SigningAlg::Rs256, SigningAlg::Es256, SigningAlg::Es384, SigningAlg::EdDsa];
        for made_for in kinds {
            let private = generate(made_for).unwrap().private;
            for asked in kinds {
                let read = SigningKey::from_pkcs8(asked, "k", &private).map(|key| key.alg());
                let expected = if made_for == asked { Ok(asked) } else { Err(TokenError::Unfit(asked)) };
                assert_eq!(read, expected, "{made_for} as {asked}");
            }
        }
    }

    #[test]
    fn an_rsa_key_of_1024_bits_is_refused() {
        let weak = BASE64.decode(RSA_1024).unwrap();
        assert_eq!(RsaKeyPair::from_pkcs8(&weak).unwrap_err().to_string(), "TooSmall", "a key but for its size");
        assert_eq!(SigningKey::from_pkcs8(SigningAlg::Rs256, "k", &weak).map(drop), Err(TokenError::Unfit(SigningAlg::Rs256)));
    }

    #[test]
    fn what_is_not_a_private_key_is_refused() {
        let new = generate(SigningAlg::Es256).unwrap();
        for octets in [&[][..], b"garbage", &new.private[..new.private.len() - 1]] {
            assert!(SigningKey::from_pkcs8(SigningAlg::Es256, "k", octets).is_err());
        }
    }

    #[test]
    fn a_stored_key_comes_back_and_holds_no_private_octet_in_clear() {
        for alg in [SigningAlg::Rs256, SigningAlg::Es384, SigningAlg::EdDsa] {
            let new = generate(alg).unwrap();
            let private = new.private.clone();
            let main = IssuerId::parse("main").unwrap();
            let stored = new.into_record(main, KeyState::Active, Timestamp::from_seconds(1), &sealing(), &Entropy::seeded(2));
            assert!(!stored.sealed.windows(16).any(|window| private.windows(16).any(|secret| secret == window)));
            let key = SigningKey::unseal(&stored, &sealing()).unwrap();
            assert_eq!((key.kid(), key.alg()), (stored.kid.as_str(), alg));
        }
    }

    #[test]
    fn a_stored_key_moved_elsewhere_does_not_open() {
        let stored = record(SigningAlg::EdDsa);
        let other_issuer = KeyRecord { issuer: IssuerId::parse("other").unwrap(), ..stored.clone() };
        let other_kid = KeyRecord { kid: "other".to_owned(), ..stored.clone() };
        let other_key = SealingKey::generate(&Entropy::seeded(9));
        let damaged = Err(TokenError::Unsealable(crate::token::Unsealable::Damaged));
        assert_eq!(SigningKey::unseal(&other_issuer, &sealing()).map(drop), damaged);
        assert_eq!(SigningKey::unseal(&other_kid, &sealing()).map(drop), damaged);
        assert_eq!(SigningKey::unseal(&stored, &other_key).map(drop), Err(TokenError::Unsealable(crate::token::Unsealable::OtherKey)));
    }

    #[test]
    fn a_key_whose_published_half_is_not_its_own_is_never_signed_with() {
        let (mine, other) = (record(SigningAlg::Es256), record(SigningAlg::Es256));
        let mut foreign: Value = serde_json::from_str(&other.public_jwk).unwrap();
        foreign["kid"] = mine.kid.clone().into();
        let renamed = mine.public_jwk.replace(&mine.kid, "other");
        let unbound = mine.public_jwk.replace(r#""alg":"ES256","#, "");
        for public_jwk in [foreign.to_string(), other.public_jwk, renamed, unbound] {
            let mixed = KeyRecord { public_jwk, ..mine.clone() };
            assert_eq!(SigningKey::unseal(&mixed, &sealing()).map(drop), Err(TokenError::HalvesDiffer));
        }
    }

    #[test]
    fn debug_tells_the_name_and_no_secret() {
        let new = generate(SigningAlg::EdDsa).unwrap();
        let text = format!("{new:?} {:?}", SigningKey::from_pkcs8(new.alg, &new.kid, &new.private).unwrap());
        assert_eq!(text, format!("NewKey {{ kid: {0:?}, alg: EdDsa, .. }} SigningKey {{ kid: {0:?}, alg: EdDsa, .. }}", new.kid));
    }

    #[test]
    fn a_kid_is_escaped_where_it_must_be() {
        let private = generate(SigningAlg::EdDsa).unwrap().private;
        let key = SigningKey::from_pkcs8(SigningAlg::EdDsa, "a\"b\\c", &private).unwrap();
        let token = key.sign_jws(TokenTyp::None, b"{}").unwrap();
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(), Some("a\"b\\c"));
    }

    const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;
    /// A throw-away key, made for this test.
    const RSA_1024: &str = "MIICeAIBADANBgkqhkiG9w0BAQEFAASCAmIwggJeAgEAAoGBAM/wW+d2gD8is+hB7ilr+5GpTv6+fQhJOLwT/5DQo5fClmb1oOLGt7wGHly4wmQy2EMCNmxq+APryc6TdwKy4b55vMcGiTQAY1ECPKwJd9Pqd7mp79Hkmp7K6kBQxL/eNcJonnT7TvzlavX2HLFjoW0guDFtBaXHY1wIjf1qFhKfAgMBAAECgYEAlrajFkAIsjon5carpXAz1Z6+t9s/apsPuRpRmRfwCtYqBxQveU8I6woQRapQkylbIC5hXfGmM8lZ6xVtJBKdlQ8wbfQ9wareCGyqBxitVDoK/OGXI9ZJ8EHiizaS8fd37uyINaHV/Ld+Tvd9gPmDELQT23gkSZo+ZgduPL3OXskCQQD1oW/aWnLOz21Z+MSwye8iD5oV85qUg2kbdiL26AQxDb8M3yPCVV3Xahd0/4mEIZwLdggS5Oe/1kd9HMHno2VDAkEA2LeVKw1sBbGZaOJJmfa0V10eYkdu3TOU7VXU0KMy4wYD0cHnPZRj1XVFfwENmY5S383CWcHhUlFTsrlTM3HZdQJBAMImBTwpC+ANslhQOl+mbT6V6Gv7ba5/pB+RpBdW0qFXRTBOW3xqb08qSzouFSr8SdQBSmZsygUmwMDSby3BR/MCQHLq5m6t71oVkwPK+rxp1bd96V60AlXJxG8V1IPOBm3cAqp35+b/iPDn/rIaHNwQXGHQ+f4ekRzVg0yCeVwOQwECQQDQvOHI2nVQfJgq+v3p2vOeccaixpzsGK4zoaZSUHqnIgsqUx2B+Vv4//TNgsdqaLH3/ZNZRKCBB06RlUph+U7I";
}
