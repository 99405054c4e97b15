//! Private keys from outside: PEM in its three usual forms, and JSON Web Keys. What is read is checked as a whole, both halves, and leaves in PKCS#8.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::jwks::{Curve, JWKS_KEYS_MAX, JwkRefused, Material, PublicJwk};
use super::keys::PrivateHalf;
use super::{BASE64URL, NewKey};
use crate::model::key::SigningAlg;

/// The longest PEM text that is read, in octets.
pub const PEM_OCTETS_MAX: usize = 64 * 1024;

/// Why a private key is not taken. Nothing in here tells a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportRefused {
    /// Longer than [`PEM_OCTETS_MAX`].
    #[error("must not be longer than 64 KiB")]
    TooLong,
    /// No block with a private key.
    #[error("must hold a private key in PEM: PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY")]
    NoPrivateKey,
    /// It needs a passphrase.
    #[error("is encrypted: decrypt it first, for example with openssl pkey")]
    Encrypted,
    /// Which of them is meant?
    #[error("holds more than one private key: send them one by one")]
    Several,
    /// The text between the lines is not base64.
    #[error("has a block that is not base64")]
    NotBase64,
    /// The octets are no private key, or one whose parts contradict each other.
    #[error("is not a private key whose parts fit together")]
    Broken,
    /// Too short to be safe.
    #[error("is an RSA key of fewer than 2048 or more than 8192 bits")]
    RsaBits,
    /// A key of a kind that signs nothing here.
    #[error("is of a kind that is not supported: RSA, EC on P-256 or P-384, and Ed25519 are")]
    Unsupported,
    /// A symmetric key.
    #[error("is a symmetric key, with which everybody who verifies could sign")]
    Symmetric,
    /// The public half alone.
    #[error("is a public key: there is nothing to sign with")]
    PublicOnly,
    /// The public half is another key's.
    #[error("has a public half that is not its private half's")]
    HalvesDiffer,
    /// A JWK of RSA without its primes.
    #[error("must have p, q, dp, dq and qi beside n, e and d, and no oth")]
    NoPrimes,
    /// It is not for signing.
    #[error("is for encryption (use, key_ops), not for signing")]
    NotForSigning,
    /// The algorithm is not one for this key.
    #[error("is not a key for {0}")]
    OtherAlgorithm(SigningAlg),
    /// Its own `alg` says otherwise.
    #[error("says itself that it is for {0}")]
    SaysOtherwise(String),
    /// A member breaks its rule.
    #[error(transparent)]
    Jwk(#[from] JwkRefused),
}

/// Reads a private key in PEM: PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`). Certificates and parameters around it are ignored.
/// Without `alg` it signs with the usual algorithm of its kind. Its name is its thumbprint.
pub fn from_pem(text: &str, alg: Option<SigningAlg>) -> Result<NewKey, ImportRefused> {
    if text.len() > PEM_OCTETS_MAX {
        return Err(ImportRefused::TooLong);
    }
    let mut keys = Vec::new();
    for block in blocks(text) {
        match block.label {
            "ENCRYPTED PRIVATE KEY" => return Err(ImportRefused::Encrypted),
            // PKCS#1 and SEC 1 are encrypted by headers (RFC 1421 4.6.1.1).
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" if block.body.contains("ENCRYPTED") => {
                return Err(ImportRefused::Encrypted);
            }
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => keys.push(block),
            "DSA PRIVATE KEY" | "OPENSSH PRIVATE KEY" => return Err(ImportRefused::Unsupported),
            _ => {}
        }
    }
    match keys.as_slice() {
        [] if text.contains("PUBLIC KEY-----") => Err(ImportRefused::PublicOnly),
        [] => Err(ImportRefused::NoPrivateKey),
        [only] => from_der(&only.octets()?)?.into_key(alg),
        [_, _, ..] => Err(ImportRefused::Several),
    }
}

/// One block between its two lines (RFC 7468 2).
struct Block<'a> {
    label: &'a str,
    body: &'a str,
}

impl Block<'_> {
    fn octets(&self) -> Result<Zeroizing<Vec<u8>>, ImportRefused> {
        let plain: Zeroizing<String> = Zeroizing::new(self.body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
        STANDARD.decode(plain.as_bytes()).map(Zeroizing::new).map_err(|_| ImportRefused::NotBase64)
    }
}

fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once("-----BEGIN ")?;
        let (label, after) = after.split_once("-----")?;
        let (body, after) = after.split_once("-----END ")?;
        rest = after;
        Some(Block { label, body })
    })
}

/// A private key that was read and checked.
enum Pair {
    Rsa(RsaKeyPair),
    Ec(Curve, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

const CURVES: [(Curve, &EcdsaSigningAlgorithm); 2] =
    [(Curve::P256, &ECDSA_P256_SHA256_FIXED_SIGNING), (Curve::P384, &ECDSA_P384_SHA384_FIXED_SIGNING)];

fn from_der(der: &[u8]) -> Result<Pair, ImportRefused> {
    let mut too_small = false;
    for read in [RsaKeyPair::from_pkcs8, RsaKeyPair::from_der] {
        match read(der) {
            Ok(pair) => return Ok(Pair::Rsa(pair)),
            Err(rejected) => too_small |= matches!(rejected.to_string().as_str(), "TooSmall" | "TooLarge"),
        }
    }
    if too_small {
        return Err(ImportRefused::RsaBits);
    }
    for (curve, how) in CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(how, der) {
            return Ok(Pair::Ec(curve, pair));
        }
    }
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
        return Ok(Pair::Ed25519(pair));
    }
    Err(if names_another_kind(der) { ImportRefused::Unsupported } else { ImportRefused::Broken })
}

/// Whether the octets name a kind of key that is sound and of no use here, so that its owner is not sent looking for damage.
fn names_another_kind(der: &[u8]) -> bool {
    // The object identifiers of secp521r1, secp256k1, Ed448, X25519, X448 and RSASSA-PSS, as they stand in DER.
    let kinds: [&[u8]; 6] = [
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
        &[0x06, 0x03, 0x2b, 0x65, 0x71],
        &[0x06, 0x03, 0x2b, 0x65, 0x6e],
        &[0x06, 0x03, 0x2b, 0x65, 0x6f],
        &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a],
    ];
    kinds.iter().any(|kind| der.windows(kind.len()).any(|window| window == *kind))
}

impl Pair {
    fn into_key(self, alg: Option<SigningAlg>) -> Result<NewKey, ImportRefused> {
        let usual = match &self {
            Self::Rsa(_) => SigningAlg::Rs256,
            Self::Ec(Curve::P256, _) => SigningAlg::Es256,
            Self::Ec(Curve::P384, _) => SigningAlg::Es384,
            Self::Ed25519(_) => SigningAlg::EdDsa,
        };
        let alg = alg.unwrap_or(usual);
        let private = self.pkcs8().map_err(|_| ImportRefused::Broken)?;
        // Read back as it will be read at every start.
        let half = PrivateHalf::from_pkcs8(alg, &private).map_err(|_| ImportRefused::OtherAlgorithm(alg))?;
        let material = half.public(alg).map_err(|_| ImportRefused::Broken)?;
        NewKey::of(material, alg, private).map_err(|_| ImportRefused::Broken)
    }

    fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, aws_lc_rs::error::Unspecified> {
        let octets = match self {
            Self::Rsa(pair) => pair.as_der()?.as_ref().to_vec(),
            Self::Ec(_, pair) => pair.to_pkcs8v1()?.as_ref().to_vec(),
            Self::Ed25519(pair) => pair.to_pkcs8()?.as_ref().to_vec(),
        };
        Ok(Zeroizing::new(octets))
    }
}

/// A private JWK, with the name it has.
#[derive(Debug)]
pub struct ImportedJwk {
    /// The key.
    pub key: NewKey,
    /// Its own `kid`.
    pub kid: Option<String>,
}

/// Reads a private JWK (RFC 7517 4, RFC 7518 6). `alg` may say what its own `alg` leaves open.
pub fn from_jwk(members: &Map<String, Value>, alg: Option<SigningAlg>) -> Result<ImportedJwk, ImportRefused> {
    match members.get("kty").and_then(Value::as_str) {
        Some("oct") => return Err(ImportRefused::Symmetric),
        Some(_) if !members.contains_key("d") => return Err(ImportRefused::PublicOnly),
        Some(_) | None => {}
    }
    if !is_for_signing(members) {
        return Err(ImportRefused::NotForSigning);
    }
    let public = PublicJwk::public_half(members).map_err(|refused| match refused {
        JwkRefused::Unsupported(_) if is_rsa(members) => ImportRefused::RsaBits,
        JwkRefused::Unsupported(_) => ImportRefused::Unsupported,
        refused @ (JwkRefused::TooLarge
        | JwkRefused::TooManyKeys
        | JwkRefused::NotAnObject
        | JwkRefused::NotASet
        | JwkRefused::Own
        | JwkRefused::Secret
        | JwkRefused::Member { .. }) => refused.into(),
    })?;
    let alg = agreed(public.alg(), alg)?;
    let kid = public.kid().map(str::to_owned);
    let pair = match &public.material {
        Material::Rsa { n, e } => rsa(members, n, e)?,
        Material::Ec { curve, x, y } => {
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            let how = CURVES.iter().find(|(one, _)| one == curve).map(|(_, how)| *how).ok_or(ImportRefused::Unsupported)?;
            let private = secret(members, "d")?;
            let read = EcdsaKeyPair::from_private_key_and_public_key(how, &private, &point);
            Pair::Ec(*curve, read.map_err(|_| ImportRefused::HalvesDiffer)?)
        }
        Material::Ed25519 { x } => {
            let read = Ed25519KeyPair::from_seed_and_public_key(&secret(members, "d")?, x);
            Pair::Ed25519(read.map_err(|_| ImportRefused::HalvesDiffer)?)
        }
        Material::Foreign { .. } => return Err(ImportRefused::Unsupported),
    };
    Ok(ImportedJwk { key: pair.into_key(alg)?, kid })
}

/// Reads every private signing key of a set, and says how many others it holds.
pub fn from_jwks(members: &Map<String, Value>, alg: Option<SigningAlg>) -> Result<(Vec<ImportedJwk>, usize), ImportRefused> {
    let Some(Value::Array(items)) = members.get("keys") else { return Err(JwkRefused::NotASet.into()) };
    if items.len() > JWKS_KEYS_MAX {
        return Err(JwkRefused::TooManyKeys.into());
    }
    let (mut keys, mut others) = (Vec::new(), 0);
    for item in items {
        match from_jwk(item.as_object().ok_or(JwkRefused::NotASet)?, alg) {
            Ok(key) => keys.push(key),
            Err(ImportRefused::PublicOnly | ImportRefused::NotForSigning | ImportRefused::Unsupported) => others += 1,
            Err(refused) => return Err(refused),
        }
    }
    if keys.is_empty() { Err(ImportRefused::PublicOnly) } else { Ok((keys, others)) }
}

fn is_rsa(members: &Map<String, Value>) -> bool {
    members.get("kty").and_then(Value::as_str) == Some("RSA")
}

/// RFC 7517 4.2 and 4.3.
fn is_for_signing(members: &Map<String, Value>) -> bool {
    let used = members.get("use").and_then(Value::as_str).is_none_or(|word| word == "sig");
    let operations = members.get("key_ops").and_then(Value::as_array);
    used && operations.is_none_or(|list| list.iter().any(|one| one.as_str() == Some("sign")))
}

/// One key, one algorithm (RFC 8725 3.1): what the key says and what the caller says must not differ.
fn agreed(own: Option<&str>, asked: Option<SigningAlg>) -> Result<Option<SigningAlg>, ImportRefused> {
    match (own, asked) {
        (None, asked) => Ok(asked),
        (Some(own), asked) => match SigningAlg::parse(own) {
            Ok(alg) if asked.is_none_or(|asked| asked == alg) => Ok(Some(alg)),
            Ok(_) | Err(_) => Err(ImportRefused::SaysOtherwise(own.to_owned())),
        },
    }
}

fn rsa(members: &Map<String, Value>, n: &[u8], e: &[u8]) -> Result<Pair, ImportRefused> {
    if members.contains_key("oth") || ["p", "q", "dp", "dq", "qi"].iter().any(|name| !members.contains_key(*name)) {
        return Err(ImportRefused::NoPrimes);
    }
    let [d, p, q, d_p, d_q, q_inv] = ["d", "p", "q", "dp", "dq", "qi"].map(|name| secret(members, name));
    let components = KeyPairComponents { public_key: PublicKeyComponents { n, e }, d: d?, p: p?, q: q?, dP: d_p?, dQ: d_q?, qInv: q_inv? };
    RsaKeyPair::from_components(&components).map(Pair::Rsa).map_err(|_| ImportRefused::HalvesDiffer)
}

/// The octets of a private member, forgotten with it.
struct Octets(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Octets {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for Octets {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn secret(members: &Map<String, Value>, member: &'static str) -> Result<Octets, ImportRefused> {
    let text = members.get(member).and_then(Value::as_str);
    let octets = text.and_then(|text| BASE64URL.decode(text).ok()).filter(|octets| !octets.is_empty());
    Ok(Octets(Zeroizing::new(octets.ok_or(JwkRefused::Member { member, why: "must be base64url without padding" })?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::token::SigningKey;

    macro_rules! pem {
        ($name:literal) => {
            include_str!(concat!("../../tests/it/pem/", $name, ".pem"))
        };
    }

    fn refused(text: &str) -> ImportRefused {
        from_pem(text, None).map(drop).expect_err("it must be refused")
    }

    fn members(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn encoded(octets: &[u8]) -> Value {
        BASE64URL.encode(octets).into()
    }

    /// A private JWK of P-256, from a pair made here.
    fn ec_jwk() -> Value {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (public, private) = (aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().to_vec(), private_octets(&pair));
        json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": encoded(&public[1..33]), "y": encoded(&public[33..]), "d": encoded(&private) })
    }

    fn private_octets(pair: &EcdsaKeyPair) -> Vec<u8> {
        use aws_lc_rs::encoding::{AsBigEndian as _, EcPrivateKeyBin};
        let octets: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().unwrap();
        octets.as_ref().to_vec()
    }

    #[test]
    fn each_of_the_usual_forms_is_read_and_signs() {
        let forms = [
            (pem!("rsa8"), SigningAlg::Rs256),
            (pem!("rsa1"), SigningAlg::Rs256),
            (pem!("ec_sec1"), SigningAlg::Es256),
            (pem!("ec8"), SigningAlg::Es256),
            (pem!("ec384_sec1"), SigningAlg::Es384),
            (pem!("ed"), SigningAlg::EdDsa),
        ];
        for (text, alg) in forms {
            let key = from_pem(text, None).unwrap_or_else(|error| panic!("{alg}: {error}"));
            assert_eq!(key.alg, alg);
            assert!(SigningKey::from_pkcs8(alg, &key.kid, &key.private).is_ok(), "{alg}");
        }
        let [pkcs8, pkcs1] = [pem!("rsa8"), pem!("rsa1")].map(|text| from_pem(text, Some(SigningAlg::Ps512)).unwrap());
        assert_eq!((&pkcs8.kid, pkcs8.alg), (&pkcs1.kid, SigningAlg::Ps512), "one key, whatever its form");
        assert_eq!(from_pem(pem!("ec_sec1"), None).unwrap().kid, from_pem(pem!("ec8"), None).unwrap().kid);
    }

    #[test]
    fn what_cannot_be_taken_is_refused_for_what_it_is() {
        assert_eq!(refused(pem!("enc")), ImportRefused::Encrypted);
        assert_eq!(refused(pem!("enc1")), ImportRefused::Encrypted);
        assert_eq!(refused(pem!("rsa1024")), ImportRefused::RsaBits);
        assert_eq!(refused(pem!("ec521")), ImportRefused::Unsupported);
        assert_eq!(refused(pem!("pub")), ImportRefused::PublicOnly);
        assert_eq!(refused(&format!("{}{}", pem!("ed"), pem!("ec8"))), ImportRefused::Several);
        assert_eq!(refused(&"x".repeat(1 << 20)), ImportRefused::TooLong);
        assert_eq!(refused("hello"), ImportRefused::NoPrivateKey);
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----"), ImportRefused::NotBase64);
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), ImportRefused::Broken);
        assert_eq!(from_pem(pem!("ed"), Some(SigningAlg::Rs256)).map(drop), Err(ImportRefused::OtherAlgorithm(SigningAlg::Rs256)));
    }

    #[test]
    fn a_private_jwk_is_read_with_its_name_and_its_halves_are_compared() {
        let jwk = ec_jwk();
        let read = from_jwk(&members(jwk.clone()), None).unwrap();
        assert_eq!((read.kid.as_deref(), read.key.alg), (Some("ec"), SigningAlg::Es256));
        let with = |member: &str, value: Value| {
            let mut changed = members(jwk.clone());
            changed.insert(member.to_owned(), value);
            from_jwk(&changed, None).map(drop).expect_err("it must be refused")
        };
        assert_eq!(with("d", ec_jwk()["d"].clone()), ImportRefused::HalvesDiffer);
        assert_eq!(with("use", json!("enc")), ImportRefused::NotForSigning);
        assert_eq!(with("key_ops", json!(["verify"])), ImportRefused::NotForSigning);
        assert_eq!(with("alg", json!("ECDH-ES")), ImportRefused::SaysOtherwise("ECDH-ES".into()));
        assert_eq!(with("kty", json!("oct")), ImportRefused::Symmetric);
        assert_eq!(with("crv", json!("P-521")), ImportRefused::Unsupported);
        assert!(matches!(with("d", json!("!")), ImportRefused::Jwk(_)));
        let mut public = members(jwk);
        public.remove("d");
        assert_eq!(from_jwk(&public, None).map(drop), Err(ImportRefused::PublicOnly));
    }

    #[test]
    fn an_rsa_jwk_needs_its_primes_and_all_its_parts_must_fit() {
        let public = from_pem(pem!("rsa8"), None).unwrap().public_jwk;
        let mut jwk = members(serde_json::from_str(&public).unwrap());
        jwk.insert("d".to_owned(), json!("AQAB"));
        assert_eq!(from_jwk(&jwk, None).map(drop), Err(ImportRefused::NoPrimes));
        for name in ["p", "q", "dp", "dq", "qi"] {
            jwk.insert(name.to_owned(), json!("AQAB"));
        }
        assert_eq!(from_jwk(&jwk, None).map(drop), Err(ImportRefused::HalvesDiffer));
        jwk.insert("n".to_owned(), encoded(&[0xff; 128]));
        assert_eq!(from_jwk(&jwk, None).map(drop), Err(ImportRefused::RsaBits));
    }

    #[test]
    fn of_a_set_the_private_signing_keys_are_taken_and_the_rest_is_counted() {
        let (first, second) = (ec_jwk(), ec_jwk());
        let mut public = second.clone();
        public.as_object_mut().unwrap().remove("d");
        let mut sealing = second;
        sealing["use"] = json!("enc");
        let (keys, others) = from_jwks(&members(json!({ "keys": [public, first, sealing] })), None).unwrap();
        assert_eq!((keys.len(), others), (1, 2));
        assert_eq!(from_jwks(&members(json!({ "keys": [] })), None).map(drop), Err(ImportRefused::PublicOnly));
        assert!(from_jwks(&members(json!({ "keys": [{ "kty": "oct", "k": "AA", "d": "x" }] })), None).is_err());
    }
}
