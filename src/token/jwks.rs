//! Public keys as JSON Web Keys (RFC 7517): the set we publish, and the sets clients register.
//!
//! A [`PublicJwk`] has no place for a private member, so that nothing written from one can hold it, whatever it was read from.

use std::collections::{BTreeSet, HashMap, HashSet};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use serde::Serialize;
use serde_json::{Map, Value};

use super::digest::sha256;
use super::{BASE64URL, json};
use crate::model::IssuerId;
use crate::model::issuer::{ProviderDocument, PublishedAt};
use crate::model::key::{KeyOrigin, KeyRecord, KeyState, Sighting, SigningAlg};

/// The largest JWK or set that is read.
pub const JWKS_OCTETS_MAX: usize = 64 * 1024;
/// The largest number of keys in a registered set.
pub const JWKS_KEYS_MAX: usize = 50;
/// RSA moduli outside this range neither sign nor verify (RFC 7518 3.3; what the library verifies).
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The longest `kid`, `alg` and `use`.
const WORD_CHARS_MAX: usize = 255;

/// Members that only private and symmetric keys have (RFC 7518 6).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why a key, or a set of them, is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkRefused {
    /// Larger than [`JWKS_OCTETS_MAX`].
    #[error("must not be larger than 64 KiB")]
    TooLarge,
    /// More than [`JWKS_KEYS_MAX`] keys.
    #[error("must not have more than 50 keys")]
    TooManyKeys,
    /// Not JSON, not an object, or ambiguous.
    #[error("must be one JSON object that names no member twice")]
    NotAnObject,
    /// An object without a `keys` array of objects.
    #[error("must have a member keys, an array of objects")]
    NotASet,
    /// The set we publish ourselves.
    #[error("must not be the set this server publishes: the provider's address leads back here")]
    Own,
    /// Private or symmetric key material: it is compromised by having been sent.
    #[error("must not hold private or symmetric keys")]
    Secret,
    /// A member breaks its rule.
    #[error("has a key whose {member} {why}")]
    Member {
        /// Which member.
        member: &'static str,
        /// The rule.
        why: &'static str,
    },
    /// A key of a kind we cannot use. In a set such a key is ignored (RFC 7517 5).
    #[error("has a key of a kind that is not supported: {0}")]
    Unsupported(&'static str),
}

/// A public key as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicJwk {
    pub(super) material: Material,
    pub(super) kid: Option<String>,
    pub(super) alg: Option<String>,
    pub(super) key_use: Option<String>,
}

/// The numbers of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Material {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// A point, both coordinates as long as the field.
    Ec { curve: Curve, x: Vec<u8>, y: Vec<u8> },
    /// RFC 8037.
    Ed25519 { x: Vec<u8> },
    /// On a curve we neither sign nor verify with: only a provider's, and only to be passed on.
    Foreign { curve: Foreign, x: Vec<u8>, y: Option<Vec<u8>> },
}

/// Curves a provider may use that we do not (RFC 7518 6.2.1.1, RFC 8037 2, RFC 8812 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    kty: &'static str,
    crv: &'static str,
}

const FOREIGN: [Foreign; 5] = [
    Foreign { kty: "EC", crv: "P-521" },
    Foreign { kty: "EC", crv: "secp256k1" },
    Foreign { kty: "OKP", crv: "Ed448" },
    Foreign { kty: "OKP", crv: "X25519" },
    Foreign { kty: "OKP", crv: "X448" },
];

/// The curves of ES256 and ES384.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    pub(super) const fn field_octets(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The keys of a registered set that we can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwkSet {
    /// Its usable keys, in their order.
    pub keys: Vec<PublicJwk>,
    /// How many were of an unsupported kind.
    pub ignored: usize,
}

impl JwkSet {
    /// Reads the `jwks` of a registration. One private, symmetric, ambiguous or broken key refuses the whole set; keys of a kind we cannot use are
    /// counted and left out (RFC 7517 5).
    pub fn parse(text: &str) -> Result<Self, JwkRefused> {
        let mut members = object(text)?;
        let Some(Value::Array(items)) = members.remove("keys") else { return Err(JwkRefused::NotASet) };
        if items.len() > JWKS_KEYS_MAX {
            return Err(JwkRefused::TooManyKeys);
        }
        let mut set = Self { keys: Vec::with_capacity(items.len()), ignored: 0 };
        for item in &items {
            let members = item.as_object().ok_or(JwkRefused::NotASet)?;
            match PublicJwk::from_members(members) {
                Ok(key) => set.keys.push(key),
                Err(JwkRefused::Unsupported(_)) => set.ignored += 1,
                Err(refused) => return Err(refused),
            }
        }
        Ok(set)
    }

    /// The set as JSON, with public members only.
    pub fn to_json(&self) -> String {
        set_of(self.keys.iter())
    }
}

/// The member of a set we publish by which we know it again, wherever it is fetched from.
pub const OWN_MARKER: &str = "logoutd";

/// Reads the set a provider publishes: RSA keys that are strong enough, and those on curves, also on curves we do not use, since whoever gets the
/// provider's keys from us may need them; the others are left out. A private key refuses the set, since it is everybody's by now; so does a set of our own, which came here by way of a proxy.
pub fn provider_set(text: &str) -> Result<JwkSet, JwkRefused> {
    let mut members = object(text)?;
    if members.contains_key(OWN_MARKER) {
        return Err(JwkRefused::Own);
    }
    let Some(Value::Array(items)) = members.remove("keys") else { return Err(JwkRefused::NotASet) };
    if items.len() > JWKS_KEYS_MAX {
        return Err(JwkRefused::TooManyKeys);
    }
    let mut set = JwkSet { keys: Vec::with_capacity(items.len()), ignored: 0 };
    for item in &items {
        let members = item.as_object().ok_or(JwkRefused::NotASet)?;
        match PublicJwk::from_members(members) {
            Ok(key) => set.keys.push(key),
            Err(JwkRefused::Secret) => return Err(JwkRefused::Secret),
            Err(_) => match PublicJwk::foreign(members) {
                Some(key) => set.keys.push(key),
                None => set.ignored += 1,
            },
        }
    }
    Ok(set)
}

/// The set an issuer's relying parties get from us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// It, in JSON.
    pub set: String,
    /// Names that keys of the provider's share with keys of ours: theirs are not in the set, and whoever needs them finds ours instead.
    pub collisions: Vec<String>,
    /// How many of the provider's keys found no place.
    pub left_out: usize,
}

/// Our keys, first, and the provider's, each once, with public members only: at most 50 and 64 KiB in all. What was withdrawn or dropped does not come
/// back by way of the provider.
pub fn merge(issuer: &IssuerId, ours: &[KeyRecord], provider: Option<&ProviderDocument>, dropped: &[String]) -> Result<Merged, JwkRefused> {
    let (mut set, mut withdrawn) = (Set::new(issuer), Vec::new());
    for record in ours {
        let key = PublicJwk::parse(&record.public_jwk)?;
        match record.state {
            KeyState::Withdrawn => withdrawn.push(key.thumbprint()),
            KeyState::Active | KeyState::Next | KeyState::Retired => {
                set.add(&PublicJwk { kid: Some(record.signing_kid().to_owned()), ..key });
            }
        }
    }
    let theirs = provider.map_or_else(|| Ok(Vec::new()), |document| provider_set(&document.jwks).map(|set| set.keys))?;
    let (mut collisions, mut left_out) = (Vec::new(), 0);
    let wanted = |key: &PublicJwk| {
        key.kid().is_none_or(|kid| !dropped.iter().any(|dropped| dropped == kid)) && !withdrawn.contains(&key.thumbprint())
    };
    for key in theirs.iter().filter(|key| wanted(key)) {
        match set.add(key) {
            Added::New | Added::There => {}
            Added::NameTaken => collisions.extend(key.kid().map(str::to_owned)),
            Added::Full => left_out += 1,
        }
    }
    Ok(Merged { set: set.end(), collisions, left_out })
}

/// A set that grows within its bounds.
struct Set {
    text: String,
    thumbprints: HashSet<String>,
    names: HashSet<String>,
}

/// What became of a key on its way into a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    New,
    /// The same key is there already.
    There,
    /// Another key has its name.
    NameTaken,
    Full,
}

impl Set {
    const END: &'static str = "]}";

    fn new(issuer: &IssuerId) -> Self {
        let text = format!("{{\"{OWN_MARKER}\":\"{issuer}\",\"keys\":[");
        Self { text, thumbprints: HashSet::new(), names: HashSet::new() }
    }

    fn add(&mut self, key: &PublicJwk) -> Added {
        let (thumbprint, json) = (key.thumbprint(), key.to_json());
        if self.thumbprints.contains(&thumbprint) {
            return Added::There;
        }
        if key.kid().is_some_and(|kid| self.names.contains(kid)) {
            return Added::NameTaken;
        }
        if self.thumbprints.len() >= JWKS_KEYS_MAX || self.text.len() + 1 + json.len() + Self::END.len() > JWKS_OCTETS_MAX {
            return Added::Full;
        }
        if !self.thumbprints.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(&json);
        self.names.extend(key.kid().map(str::to_owned));
        self.thumbprints.insert(thumbprint);
        Added::New
    }

    fn end(mut self) -> String {
        self.text.push_str(Self::END);
        self.text
    }
}

/// Which of our keys a provider publishes, found by their thumbprints, and under which names. Where relying parties come to us, a provider with a key that
/// was made here is this server by way of a proxy: were it believed, a withdrawn key would come back for ever.
pub fn sightings(ours: &[KeyRecord], document: &ProviderDocument, published_at: PublishedAt) -> Result<Vec<Sighting>, JwkRefused> {
    let theirs = provider_set(&document.jwks)?.keys;
    let theirs: HashMap<String, Option<String>> = theirs.into_iter().map(|key| (key.thumbprint(), key.kid)).collect();
    let sighting = |record: &KeyRecord| {
        let found = theirs.get(&PublicJwk::parse(&record.public_jwk)?.thumbprint()).cloned();
        Ok(Sighting { kid: record.kid.clone(), found })
    };
    let all: Vec<Sighting> = ours.iter().map(sighting).collect::<Result<_, _>>()?;
    let of_here = |(record, sighting): (&KeyRecord, &Sighting)| record.origin == KeyOrigin::Made && sighting.found.is_some();
    if published_at == PublishedAt::Here && ours.iter().zip(&all).any(of_here) {
        return Err(JwkRefused::Own);
    }
    Ok(all)
}

/// The name a provider publishes this key under, if it does.
pub fn name_in(document: &ProviderDocument, public_jwk: &str) -> Result<Option<Option<String>>, JwkRefused> {
    let thumbprint = PublicJwk::parse(public_jwk)?.thumbprint();
    let theirs = provider_set(&document.jwks)?.keys;
    Ok(theirs.into_iter().find(|key| key.thumbprint() == thumbprint).map(|key| key.kid))
}

/// Whether a provider publishes a key of this name.
pub fn named_in(document: &ProviderDocument, kid: &str) -> Result<bool, JwkRefused> {
    Ok(provider_set(&document.jwks)?.keys.iter().any(|key| key.kid() == Some(kid)))
}

/// Names that several keys of a provider's have: which of them is meant, every relying party decides for itself.
pub fn shared_names(document: &ProviderDocument) -> Result<Vec<String>, JwkRefused> {
    let (mut seen, mut shared) = (HashSet::new(), BTreeSet::new());
    for kid in provider_set(&document.jwks)?.keys.into_iter().filter_map(|key| key.kid) {
        if !seen.insert(kid.clone()) {
            shared.insert(kid);
        }
    }
    Ok(shared.into_iter().collect())
}

fn set_of<'a>(keys: impl Iterator<Item = &'a PublicJwk>) -> String {
    format!("{{\"keys\":[{}]}}", keys.map(PublicJwk::to_json).collect::<Vec<_>>().join(","))
}

fn object(text: &str) -> Result<Map<String, Value>, JwkRefused> {
    if text.len() > JWKS_OCTETS_MAX {
        return Err(JwkRefused::TooLarge);
    }
    json::object(text.as_bytes()).ok_or(JwkRefused::NotAnObject)
}

impl PublicJwk {
    /// Reads one public key: RSA of 2048 to 8192 bits, a point on P-256 or P-384, or Ed25519. Members we do not know are ignored (RFC 7517 4).
    pub fn parse(text: &str) -> Result<Self, JwkRefused> {
        Self::from_members(&object(text)?)
    }

    fn from_members(members: &Map<String, Value>) -> Result<Self, JwkRefused> {
        // Before all else, so that a secret of an unsupported kind is refused rather than ignored.
        if SECRET_MEMBERS.iter().any(|name| members.contains_key(*name)) {
            return Err(JwkRefused::Secret);
        }
        Self::public_half(members)
    }

    /// The public members of a key, whatever others it has.
    pub(super) fn public_half(members: &Map<String, Value>) -> Result<Self, JwkRefused> {
        let material = match word(members, "kty")?.as_deref() {
            Some("RSA") => Material::Rsa { n: number(members, "n")?, e: number(members, "e")? },
            Some("EC") => ec_point(members)?,
            Some("OKP") => match word(members, "crv")?.as_deref() {
                Some("Ed25519") => Material::Ed25519 { x: octets(members, "x")? },
                _ => return Err(JwkRefused::Unsupported("of OKP only Ed25519 is")),
            },
            Some("oct") => return Err(JwkRefused::Secret),
            Some(_) => return Err(JwkRefused::Unsupported("RSA, EC and OKP are")),
            None => return Err(JwkRefused::Member { member: "kty", why: "is missing" }),
        };
        let (kid, alg, key_use) = (word(members, "kid")?, word(members, "alg")?, word(members, "use")?);
        Self { material, kid, alg, key_use }.checked()
    }

    /// A key on a curve we do not use, as it is.
    fn foreign(members: &Map<String, Value>) -> Option<Self> {
        let (kty, crv) = (word(members, "kty").ok()??, word(members, "crv").ok()??);
        let curve = FOREIGN.into_iter().find(|curve| curve.kty == kty && curve.crv == crv)?;
        let y = if curve.kty == "EC" { Some(octets(members, "y").ok()?) } else { None };
        let material = Material::Foreign { curve, x: octets(members, "x").ok()?, y };
        let (kid, alg, key_use) = (word(members, "kid").ok()?, word(members, "alg").ok()?, word(members, "use").ok()?);
        Some(Self { material, kid, alg, key_use })
    }

    /// What no reader of the numbers alone can see: size, curve, and that the algorithm fits.
    pub(super) fn checked(self) -> Result<Self, JwkRefused> {
        self.material.check()?;
        match self.alg.as_deref().map(SigningAlg::parse) {
            // One key, one algorithm (RFC 8725 3.1). An algorithm we do not sign with, such as one for encryption, is none of our business.
            Some(Ok(alg)) if !self.material.fits(alg) => Err(JwkRefused::Member { member: "alg", why: "does not fit its kty and crv" }),
            Some(Ok(_) | Err(_)) | None => Ok(self),
        }
    }

    /// The key's name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The one algorithm it is for.
    pub fn alg(&self) -> Option<&str> {
        self.alg.as_deref()
    }

    /// What it is for: `sig` or `enc`.
    pub fn key_use(&self) -> Option<&str> {
        self.key_use.as_deref()
    }

    /// The RFC 7638 thumbprint with SHA-256, in base64url.
    pub fn thumbprint(&self) -> String {
        self.material.thumbprint()
    }

    /// The key as JSON: its public numbers and `kid`, `alg`, `use`, nothing else.
    pub fn to_json(&self) -> String {
        let encoded = |octets: &Vec<u8>| Some(BASE64URL.encode(octets));
        let mut members = Members { kid: self.kid(), alg: self.alg(), key_use: self.key_use(), ..Members::default() };
        match &self.material {
            Material::Rsa { n, e } => (members.kty, members.n, members.e) = ("RSA", encoded(n), encoded(e)),
            Material::Ec { curve, x, y } => {
                (members.kty, members.crv, members.x, members.y) = ("EC", Some(curve.name()), encoded(x), encoded(y));
            }
            Material::Ed25519 { x } => (members.kty, members.crv, members.x) = ("OKP", Some("Ed25519"), encoded(x)),
            Material::Foreign { curve, x, y } => {
                (members.kty, members.crv, members.x, members.y) = (curve.kty, Some(curve.crv), encoded(x), y.as_ref().and_then(encoded));
            }
        }
        members.to_json()
    }
}

#[derive(Default, Serialize)]
struct Members<'a> {
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "use")]
    key_use: Option<&'a str>,
}

impl Members<'_> {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings always serialise")
    }
}

impl Material {
    /// RFC 7638 3: the required members alone, in lexicographic order, without white space. Base64url needs no escaping.
    pub(super) fn thumbprint(&self) -> String {
        let encode = |octets: &Vec<u8>| BASE64URL.encode(octets);
        let canonical = match self {
            Self::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, encode(e), encode(n)),
            Self::Ec { curve, x, y } => {
                format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, curve.name(), encode(x), encode(y))
            }
            Self::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(x)),
            Self::Foreign { curve: Foreign { kty, crv }, x, y } => {
                let y = y.as_ref().map_or(String::new(), |y| format!(r#","y":"{}""#, encode(y)));
                format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{}"{y}}}"#, encode(x))
            }
        };
        BASE64URL.encode(sha256(canonical.as_bytes()))
    }

    pub(super) fn fits(&self, alg: SigningAlg) -> bool {
        use SigningAlg as A;
        match self {
            Self::Rsa { .. } => matches!(alg, A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256 | A::Ps384 | A::Ps512),
            Self::Ec { curve: Curve::P256, .. } => alg == A::Es256,
            Self::Ec { curve: Curve::P384, .. } => alg == A::Es384,
            Self::Ed25519 { .. } => alg == A::EdDsa,
            Self::Foreign { .. } => false,
        }
    }

    fn check(&self) -> Result<(), JwkRefused> {
        let refused = |member, why| JwkRefused::Member { member, why };
        match self {
            Self::Rsa { n, .. } if !RSA_BITS.contains(&bits(n)) => Err(JwkRefused::Unsupported("RSA of 2048 to 8192 bits is")),
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
                .map(drop)
                .map_err(|_| refused("n and e", "must be a modulus and an exponent")),
            // The library checks that the point lies on the curve (RFC 8725 3.4).
            Self::Ec { curve, x, y } => {
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                let parsed = match curve {
                    Curve::P256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point),
                    Curve::P384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point),
                };
                parsed.map(drop).map_err(|_| refused("x and y", "must be a point on the curve"))
            }
            Self::Ed25519 { x } if x.len() != 32 => Err(refused("x", "must have 32 octets")),
            Self::Ed25519 { x } => ParsedPublicKey::new(&ED25519, x).map(drop).map_err(|_| refused("x", "must be an Ed25519 public key")),
            // Whoever uses it checks it.
            Self::Foreign { .. } => Ok(()),
        }
    }
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn ec_point(members: &Map<String, Value>) -> Result<Material, JwkRefused> {
    let curve = match word(members, "crv")?.as_deref() {
        Some("P-256") => Curve::P256,
        Some("P-384") => Curve::P384,
        _ => return Err(JwkRefused::Unsupported("of EC only P-256 and P-384 are")),
    };
    let coordinate = |member| match octets(members, member)? {
        // RFC 7518 6.2.1.2: as long as the field, leading zeros included.
        value if value.len() == curve.field_octets() => Ok(value),
        _ => Err(JwkRefused::Member { member, why: "must be as long as the curve's field" }),
    };
    Ok(Material::Ec { curve, x: coordinate("x")?, y: coordinate("y")? })
}

/// `Base64urlUInt` (RFC 7518 2): big-endian, in as few octets as it takes.
fn number(members: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, JwkRefused> {
    match octets(members, member)? {
        value if matches!(value.first(), None | Some(0)) => {
            Err(JwkRefused::Member { member, why: "must not be empty or begin with a zero octet" })
        }
        value => Ok(value),
    }
}

fn octets(members: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, JwkRefused> {
    members
        .get(member)
        .and_then(Value::as_str)
        .and_then(|text| BASE64URL.decode(text).ok())
        .ok_or(JwkRefused::Member { member, why: "must be base64url without padding" })
}

fn word(members: &Map<String, Value>, member: &'static str) -> Result<Option<String>, JwkRefused> {
    const WHY: &str = "must be a string of 1 to 255 characters without control characters";
    let Some(value) = members.get(member) else { return Ok(None) };
    let legal = |text: &str| (1..=WORD_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    match value.as_str() {
        Some(text) if legal(text) => Ok(Some(text.to_owned())),
        Some(_) | None => Err(JwkRefused::Member { member, why: WHY }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::Timestamp;
    use crate::token::keys::tests::key_pair;

    /// The example of RFC 7638 3.1.
    const RFC_7638_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

    fn rsa() -> Value {
        json!({ "kty": "RSA", "n": RFC_7638_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29" })
    }

    fn stored(alg: SigningAlg) -> Value {
        serde_json::from_str(&key_pair(alg).0).unwrap()
    }

    fn with(mut key: Value, member: &str, value: impl Into<Value>) -> String {
        key[member] = value.into();
        key.to_string()
    }

    #[test]
    fn a_providers_keys_for_encryption_and_on_other_curves_are_passed_on_as_they_are() {
        let encryption = r#"{"kty":"OKP","crv":"X25519","x":"3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08","kid":"e","use":"enc"}"#;
        let es512 = r#"{"kty":"EC","crv":"P-521","x":"AAAA","y":"AAEB","kid":"big","alg":"ES512","use":"sig"}"#;
        let unknown = r#"{"kty":"EC","crv":"P-192","x":"AAAA","y":"AAEB","kid":"odd"}"#;
        let set = provider_set(&format!(r#"{{"keys":[{encryption},{es512},{unknown}]}}"#)).unwrap();
        assert_eq!((set.keys.len(), set.ignored), (2, 1));
        let same = |key: &PublicJwk, text: &str| {
            assert_eq!(serde_json::from_str::<Value>(&key.to_json()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
            assert!(SigningAlg::ALL.iter().all(|alg| !key.material.fits(*alg)), "it verifies nothing here");
        };
        same(&set.keys[0], encryption);
        same(&set.keys[1], es512);
        let secret = es512.replacen('{', "{\"d\":\"AAAA\",", 1);
        assert_eq!(provider_set(&format!(r#"{{"keys":[{secret}]}}"#)).unwrap_err(), JwkRefused::Secret);
    }

    #[test]
    fn the_thumbprint_is_that_of_the_standards_example() {
        assert_eq!(PublicJwk::parse(&rsa().to_string()).unwrap().thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn the_thumbprint_of_every_kind_of_key_is_what_another_implementation_computes() {
        for alg in SigningAlg::ALL {
            let key: jsonwebtoken::jwk::Jwk = serde_json::from_value(stored(*alg)).unwrap();
            let other = key.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
            assert_eq!(PublicJwk::parse(&key_pair(*alg).0).unwrap().thumbprint(), other, "{alg}");
        }
    }

    fn main_issuer() -> IssuerId {
        IssuerId::parse("main").unwrap()
    }

    fn ours(alg: SigningAlg, state: KeyState) -> KeyRecord {
        let (public_jwk, key) = key_pair(alg);
        KeyRecord::new(main_issuer(), key.kid().to_owned(), alg, state, public_jwk.clone(), Timestamp::default())
    }

    fn provider(jwks: Value) -> ProviderDocument {
        let jwks_uri = url::Url::parse("https://op.example/jwks").unwrap();
        ProviderDocument { issuer: main_issuer(), jwks_uri, metadata: None, jwks: jwks.to_string(), fetched_at: Timestamp::default() }
    }

    fn keys_of(merged: &Merged) -> Vec<Value> {
        serde_json::from_str::<Value>(&merged.set).unwrap()["keys"].as_array().unwrap().clone()
    }

    #[test]
    fn a_published_set_has_the_stored_keys_and_no_member_that_is_not_public() {
        let stored: Vec<KeyRecord> = SigningAlg::ALL.iter().map(|alg| ours(*alg, KeyState::Active)).collect();
        let merged = merge(&main_issuer(), &stored, None, &[]).unwrap();
        let keys = keys_of(&merged);
        let expected: Vec<Value> = stored.iter().map(|key| serde_json::from_str(&key.public_jwk).unwrap()).collect();
        assert_eq!(keys, expected);
        for key in &keys {
            for name in key.as_object().unwrap().keys() {
                assert!(["kty", "crv", "n", "e", "x", "y", "kid", "alg", "use"].contains(&name.as_str()), "{name}");
            }
        }
        assert_eq!(merge(&main_issuer(), &[], None, &[]).unwrap().set, r#"{"logoutd":"main","keys":[]}"#);
        assert_eq!(provider_set(&merged.set), Err(JwkRefused::Own), "it is known again wherever it comes from");
    }

    #[test]
    fn the_providers_keys_stand_behind_ours_each_once_and_ours_keep_their_names() {
        let active = ours(SigningAlg::Es256, KeyState::Active);
        let same = with(stored(SigningAlg::Es256), "kid", "theirs");
        let taken = with(stored(SigningAlg::EdDsa), "kid", active.kid.as_str());
        let [same, taken] = [same, taken].map(|text| serde_json::from_str::<Value>(&text).unwrap());
        let document = provider(json!({ "keys": [same, taken, rsa(), stored(SigningAlg::Es384)] }));
        let merged = merge(&main_issuer(), std::slice::from_ref(&active), Some(&document), &["2011-04-29".to_owned()]).unwrap();
        assert_eq!(keys_of(&merged), [stored(SigningAlg::Es256), stored(SigningAlg::Es384)]);
        assert_eq!((merged.collisions, merged.left_out), (vec![active.kid.clone()], 0));
        // Where the provider's name is the one it is found by, that is the one it has here too.
        let published = KeyRecord { published_kid: Some("theirs".into()), ..active };
        let merged = merge(&main_issuer(), &[published], Some(&document), &[]).unwrap();
        assert_eq!(keys_of(&merged).first().unwrap()["kid"], "theirs");
    }

    #[test]
    fn what_was_withdrawn_does_not_come_back_by_way_of_the_provider() {
        let document = provider(json!({ "keys": [stored(SigningAlg::Es256)] }));
        let merged = merge(&main_issuer(), &[ours(SigningAlg::Es256, KeyState::Withdrawn)], Some(&document), &[]).unwrap();
        assert_eq!(keys_of(&merged), Vec::<Value>::new());
    }

    #[test]
    fn a_provider_that_serves_keys_made_here_is_a_loop_unless_it_is_where_they_are_published() {
        let document = provider(json!({ "keys": [with_kid(SigningAlg::Es256, "theirs")] }));
        let made = ours(SigningAlg::Es256, KeyState::Active);
        assert_eq!(sightings(std::slice::from_ref(&made), &document, PublishedAt::Here), Err(JwkRefused::Own));
        let imported = KeyRecord { origin: KeyOrigin::Imported, ..made.clone() };
        let found = vec![Sighting { kid: made.kid.clone(), found: Some(Some("theirs".into())) }];
        assert_eq!(sightings(&[imported], &document, PublishedAt::Here), Ok(found.clone()));
        assert_eq!(sightings(&[made], &document, PublishedAt::Provider), Ok(found));
        let absent = ours(SigningAlg::EdDsa, KeyState::Next);
        assert_eq!(sightings(&[absent], &document, PublishedAt::Provider).unwrap().pop().unwrap().found, None);
    }

    fn with_kid(alg: SigningAlg, kid: &str) -> Value {
        serde_json::from_str(&with(stored(alg), "kid", kid)).unwrap()
    }

    proptest! {
        #[test]
        fn whatever_a_provider_publishes_the_set_is_bounded_public_and_without_repetition(
            picks in proptest::collection::vec((0..9_usize, "[a-e]{1,2}", any::<bool>(), any::<bool>()), 0..50),
            states in proptest::collection::vec(0..4_usize, 9),
        ) {
            let theirs: Vec<Value> = picks.iter().map(|(alg, kid, named, strange)| {
                let mut key = with_kid(SigningAlg::ALL[*alg], kid);
                if !named { key.as_object_mut().unwrap().remove("kid"); }
                if *strange { key["x5u"] = json!("https://evil.example"); }
                key
            }).collect();
            let stored: Vec<KeyRecord> = SigningAlg::ALL.iter().zip(&states).map(|(alg, state)| ours(*alg, KeyState::ALL[*state])).collect();
            let merged = merge(&main_issuer(), &stored, Some(&provider(json!({ "keys": theirs }))), &["a".to_owned()]).unwrap();
            prop_assert!(merged.set.len() <= JWKS_OCTETS_MAX);
            let keys = keys_of(&merged);
            prop_assert!(keys.len() <= JWKS_KEYS_MAX);
            let thumbprints: HashSet<String> = keys.iter().map(|key| PublicJwk::parse(&key.to_string()).unwrap().thumbprint()).collect();
            prop_assert_eq!(thumbprints.len(), keys.len());
            let names: Vec<&str> = keys.iter().filter_map(|key| key["kid"].as_str()).collect();
            prop_assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
            prop_assert!(!names.contains(&"a"));
            for key in &stored {
                prop_assert_eq!(names.contains(&key.kid.as_str()), key.state != KeyState::Withdrawn);
                let gone = key.state == KeyState::Withdrawn && thumbprints.contains(&key.kid);
                prop_assert!(!gone);
            }
        }
    }

    #[test]
    fn a_set_never_grows_beyond_its_bounds() {
        let mut set = Set::new(&main_issuer());
        let template = PublicJwk::parse(&rsa().to_string()).unwrap();
        let large = |number: u8| {
            let Material::Rsa { n, e } = &template.material else { panic!("rsa is rsa") };
            let mut n = n.repeat(4);
            *n.last_mut().unwrap() = number;
            PublicJwk { material: Material::Rsa { n, e: e.clone() }, kid: Some(format!("k{number}")), ..template.clone() }
        };
        let added: Vec<Added> = (0..60).map(|number| set.add(&large(number))).collect();
        assert!(added.contains(&Added::New) && added.contains(&Added::Full));
        let text = set.end();
        assert!(text.len() <= JWKS_OCTETS_MAX && serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn a_secret_is_refused_wherever_it_hides() {
        for member in SECRET_MEMBERS {
            for key in [rsa(), stored(SigningAlg::Es256), stored(SigningAlg::EdDsa), json!({ "kty": "unheard-of" })] {
                let key = with(key, member, "AQAB");
                assert_eq!(PublicJwk::parse(&key), Err(JwkRefused::Secret), "{member}");
                assert_eq!(JwkSet::parse(&format!(r#"{{"keys":[{key}]}}"#)), Err(JwkRefused::Secret), "{member}");
            }
        }
        assert_eq!(PublicJwk::parse(r#"{"kty":"oct"}"#), Err(JwkRefused::Secret));
    }

    #[test]
    fn members_nobody_asked_for_are_not_passed_on() {
        let key = PublicJwk::parse(&with(rsa(), "x5u", "https://evil.example")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&key.to_json()).unwrap(), rsa());
    }

    #[test]
    fn a_weak_or_oversized_modulus_is_not_usable() {
        let modulus = |octets: usize| BASE64URL.encode(vec![0xff; octets]);
        for octets in [1, 128, 255, 1025] {
            let refused = PublicJwk::parse(&with(rsa(), "n", modulus(octets)));
            assert_eq!(refused, Err(JwkRefused::Unsupported("RSA of 2048 to 8192 bits is")), "{octets}");
        }
        // 2048 bits are counted, not 256 octets.
        let mut short = vec![0xff; 256];
        short[0] = 0x7f;
        assert!(PublicJwk::parse(&with(rsa(), "n", BASE64URL.encode(short))).is_err());
        assert!(PublicJwk::parse(&with(rsa(), "n", modulus(256))).is_ok());
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        for alg in [SigningAlg::Es256, SigningAlg::Es384] {
            let mut key = stored(alg);
            key["y"] = key["x"].clone();
            let refused = Err(JwkRefused::Member { member: "x and y", why: "must be a point on the curve" });
            assert_eq!(PublicJwk::parse(&key.to_string()), refused, "{alg}");
        }
    }

    #[test]
    fn a_member_that_breaks_its_rule_is_named() {
        let long = "x".repeat(256);
        for (key, member) in [
            (with(rsa(), "n", 7), "n"),
            (with(rsa(), "e", "AQAB="), "e"),
            (with(rsa(), "e", "AAEAAQ"), "e"),
            (with(rsa(), "kid", long.as_str()), "kid"),
            (with(rsa(), "kid", "a\nb"), "kid"),
            (with(rsa(), "kid", json!(null)), "kid"),
            (with(rsa(), "alg", "ES256"), "alg"),
            (with(stored(SigningAlg::Es256), "alg", "ES384"), "alg"),
            (with(stored(SigningAlg::Es256), "crv", "P-384"), "x"),
            (with(stored(SigningAlg::EdDsa), "x", "AQAB"), "x"),
            (json!({ "n": RFC_7638_N }).to_string(), "kty"),
        ] {
            assert!(matches!(PublicJwk::parse(&key), Err(JwkRefused::Member { member: m, .. }) if m == member), "{member}");
        }
    }

    #[test]
    fn a_registered_set_keeps_what_is_usable_and_counts_the_rest() {
        let [es256, es512, x25519] = [
            stored(SigningAlg::Es256),
            json!({ "kty": "EC", "crv": "P-521", "x": "", "y": "" }),
            json!({ "kty": "OKP", "crv": "X25519", "x": "" }),
        ];
        let text = json!({ "keys": [rsa(), es512, x25519, { "kty": "AKP" }, es256], "extra": 1 }).to_string();
        let set = JwkSet::parse(&text).unwrap();
        assert_eq!((set.keys.len(), set.ignored), (2, 3));
        assert_eq!(serde_json::from_str::<Value>(&set.to_json()).unwrap(), json!({ "keys": [rsa(), es256] }));
    }

    #[test]
    fn what_is_not_a_bounded_unambiguous_set_is_refused() {
        let many = |n: usize| json!({ "keys": vec![json!({ "kty": "AKP" }); n] }).to_string();
        assert!(JwkSet::parse(&many(JWKS_KEYS_MAX)).is_ok());
        assert_eq!(JwkSet::parse(&many(JWKS_KEYS_MAX + 1)), Err(JwkRefused::TooManyKeys));
        assert_eq!(JwkSet::parse(&format!("{{}}{}", " ".repeat(JWKS_OCTETS_MAX))), Err(JwkRefused::TooLarge));
        for text in ["{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#] {
            assert_eq!(JwkSet::parse(text), Err(JwkRefused::NotASet), "{text}");
        }
        let twice = rsa().to_string().replacen('{', r#"{"kid":"other","#, 1);
        for text in ["", "[]", r#"{"keys":[],"keys":[]}"#, &format!(r#"{{"keys":[{twice}]}}"#)] {
            assert_eq!(JwkSet::parse(text), Err(JwkRefused::NotAnObject), "{text}");
        }
    }
}
