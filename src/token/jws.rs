//! What all signed tokens that come from outside have in common: three parts, strict JSON, and a signature of a key their issuer publishes.
//!
//! Nothing here is believed before the signature is. Keys a header carries or points to (`jwk`, `jku`, `x5c`, `x5u`) are never looked at (RFC 8725 3.10).

use base64::Engine as _;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::digest::{JWT_OCTETS_MAX, digest_of_token};
use super::jwks::{Material, PublicJwk};
use super::{BASE64URL, json};
use crate::model::key::SigningAlg;
use crate::model::{Digest, Timestamp};

/// The last second that is a time.
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// What is wrong with a token before anybody asks what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Longer than 16 KiB, or not a compact JWS of JSON objects that name no member twice.
    Malformed,
    /// A JWE.
    Encrypted,
    /// It asks for an extension to be understood (RFC 7515 4.1.11).
    Critical,
    /// It says that it is something else.
    Type,
}

/// Why a signature is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsigned {
    /// The key it names is not one of its issuer's.
    UnknownKey,
    /// No key of its issuer made it.
    Signature,
}

/// A token taken apart, of which nothing is verified.
#[derive(Clone, Debug)]
pub(super) struct Jws {
    pub(super) typ: Option<String>,
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Value>,
    pub(super) digest: Digest,
    signed: String,
    signature: String,
}

impl Jws {
    /// Takes a token apart: three parts of strict base64url, JSON without duplicate members (RFC 7519 4), and no extension.
    pub(super) fn read(text: &str) -> Result<Self, Flaw> {
        Self::read_up_to(JWT_OCTETS_MAX, text)
    }

    /// The same for what may be longer than a token.
    pub(super) fn read_up_to(octets_max: usize, text: &str) -> Result<Self, Flaw> {
        if text.len() > octets_max {
            return Err(Flaw::Malformed);
        }
        let (header, payload, signature) = match text.split('.').collect::<Vec<_>>().as_slice() {
            [header, payload, signature] => (*header, *payload, *signature),
            [_, _, _, _, _] => return Err(Flaw::Encrypted),
            _ => return Err(Flaw::Malformed),
        };
        let part = |part: &str| BASE64URL.decode(part).map_err(|_| Flaw::Malformed);
        let object = |octets: Vec<u8>| json::object(&octets).ok_or(Flaw::Malformed);
        let (header, claims) = (object(part(header)?)?, object(part(payload)?)?);
        part(signature)?;
        if header.contains_key("enc") {
            return Err(Flaw::Encrypted);
        }
        // RFC 7515 4.1.11: a list that is empty is illegal, and whatever it names is not understood here.
        if header.contains_key("crit") {
            return Err(Flaw::Critical);
        }
        Ok(Self {
            typ: typ(header.get("typ"))?,
            alg: word(&header, "alg")?.ok_or(Flaw::Malformed)?,
            kid: word(&header, "kid")?,
            claims,
            digest: digest_of_token(text.as_bytes()),
            signed: text.get(..text.len() - signature.len() - 1).unwrap_or_default().to_owned(),
            signature: signature.to_owned(),
        })
    }

    /// A key that is named is the only one that counts; without a name each that fits is tried (RFC 7515 6).
    pub(super) fn check_signature(&self, keys: &[PublicJwk], alg: SigningAlg) -> Result<(), Unsigned> {
        let named: Vec<&PublicJwk> = match self.kid.as_deref() {
            Some(kid) => keys.iter().filter(|key| key.kid() == Some(kid)).collect(),
            None => keys.iter().collect(),
        };
        if named.is_empty() {
            return Err(Unsigned::UnknownKey);
        }
        let made = |key: &&PublicJwk| fits(key, alg) && self.is_signed_by(key, alg);
        if named.iter().any(made) { Ok(()) } else { Err(Unsigned::Signature) }
    }

    fn is_signed_by(&self, key: &PublicJwk, alg: SigningAlg) -> bool {
        let encode = |octets: &Vec<u8>| BASE64URL.encode(octets);
        let key = match &key.material {
            Material::Rsa { n, e } => Ok(DecodingKey::from_rsa_raw_components(n, e)),
            Material::Ec { x, y, .. } => DecodingKey::from_ec_components(&encode(x), &encode(y)),
            Material::Ed25519 { x } => DecodingKey::from_ed_components(&encode(x)),
            // It fits no algorithm of ours.
            Material::Foreign { .. } => return false,
        };
        key.and_then(|key| jsonwebtoken::crypto::verify(&self.signature, self.signed.as_bytes(), &key, algorithm(alg))).unwrap_or(false)
    }
}

fn word(header: &Map<String, Value>, name: &str) -> Result<Option<String>, Flaw> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(word)) => Ok(Some(word.clone())),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(Flaw::Malformed),
    }
}

/// RFC 7515 4.1.9: a media type, compared without case, whose `application/` may be left out.
fn typ(typ: Option<&Value>) -> Result<Option<String>, Flaw> {
    match typ {
        None => Ok(None),
        Some(Value::String(typ)) => {
            let typ = typ.to_ascii_lowercase();
            Ok(Some(typ.strip_prefix("application/").unwrap_or(&typ).to_owned()))
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(Flaw::Type),
    }
}

/// One key, one algorithm (RFC 8725 3.1), and none that is published for something else.
fn fits(key: &PublicJwk, alg: SigningAlg) -> bool {
    key.material.fits(alg) && key.alg().is_none_or(|own| own == alg.as_str()) && key.key_use().is_none_or(|own| own == "sig")
}

const fn algorithm(alg: SigningAlg) -> Algorithm {
    match alg {
        SigningAlg::Rs256 => Algorithm::RS256,
        SigningAlg::Rs384 => Algorithm::RS384,
        SigningAlg::Rs512 => Algorithm::RS512,
        SigningAlg::Ps256 => Algorithm::PS256,
        SigningAlg::Ps384 => Algorithm::PS384,
        SigningAlg::Ps512 => Algorithm::PS512,
        SigningAlg::Es256 => Algorithm::ES256,
        SigningAlg::Es384 => Algorithm::ES384,
        SigningAlg::EdDsa => Algorithm::EdDSA,
    }
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519 2).
pub(super) fn numeric_date(value: Option<&Value>) -> Option<Timestamp> {
    let seconds = value?.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, reason = "within the range of times, and the fraction below a millisecond is cut off")]
    Some(Timestamp::from_millis((seconds * 1000.0) as i64))
}
