//! The sealing key: what protects secrets at rest, and what makes digests useless to whoever has the database alone.
//!
//! One key of 32 octets, held outside the database. Every use derives its own key from it with HKDF, so that no two uses can be played against
//! each other. Sealed octets say by which format and which key they were sealed, so that both can be changed later: a [`SealingKey`] may know a second
//! key that opens and never seals, and one that digests are still made with after both were changed.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::model::{ClientId, Digest, IssuerId, Malformed};
use crate::seams::Entropy;

/// Octets of a sealing key.
pub const KEY_OCTETS: usize = 32;

/// The only format there is: version, key id, nonce, ciphertext with its tag.
const VERSION: u8 = 1;
const KEY_ID_OCTETS: usize = 4;

const MALFORMED: Malformed =
    Malformed { what: "a sealing key", why: "must be 32 random octets: raw in a file, or as 64 hexadecimal digits, or in base64" };

/// What is sealed, and where it rests. Bound to the sealed octets, so that they open nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The table it rests in.
    pub table: &'a str,
    /// The issuer it belongs to.
    pub issuer: &'a str,
    /// Its name there, such as a `kid`.
    pub name: &'a str,
    /// What it is for.
    pub purpose: &'a str,
}

impl<'a> Sealed<'a> {
    /// The private half of a signing key.
    pub fn signing_key(issuer: &'a IssuerId, kid: &'a str) -> Self {
        Self { table: "keys", issuer: issuer.as_str(), name: kid, purpose: "private-key" }
    }

    /// The private half of a key that signs the audit trail.
    pub const fn audit_key(kid: &'a str) -> Self {
        Self { table: "audit_keys", issuer: "", name: kid, purpose: "private-key" }
    }

    /// A client's certificate and private key for TLS.
    pub fn client_tls(issuer: &'a IssuerId, client_id: &'a ClientId) -> Self {
        Self { table: "clients", issuer: issuer.as_str(), name: client_id.as_str(), purpose: "tls" }
    }

    /// The headers a client wants to see in every request.
    pub fn client_headers(issuer: &'a IssuerId, client_id: &'a ClientId) -> Self {
        Self { table: "clients", issuer: issuer.as_str(), name: client_id.as_str(), purpose: "headers" }
    }

    /// What a provider is told with: tokens, secrets, passwords.
    pub fn provider_logout(issuer: &'a IssuerId) -> Self {
        Self { table: "issuers", issuer: issuer.as_str(), name: "", purpose: "provider-logout" }
    }

    /// The secret a provider's introspection endpoint is asked with.
    pub fn introspection(issuer: &'a IssuerId) -> Self {
        Self { table: "issuers", issuer: issuer.as_str(), name: "", purpose: "introspection" }
    }

    /// The secret a provider's revocation endpoint is called with.
    pub fn revocation(issuer: &'a IssuerId) -> Self {
        Self { table: "issuers", issuer: issuer.as_str(), name: "", purpose: "revocation" }
    }

    /// The key that the secrets of an issuer's subjects are derived from.
    pub fn subject_secrets(issuer: &'a IssuerId) -> Self {
        Self { table: "issuers", issuer: issuer.as_str(), name: "", purpose: "subject-secrets" }
    }

    /// A client's own secret at its provider.
    pub fn provider_secret(issuer: &'a IssuerId, client_id: &'a ClientId) -> Self {
        Self { table: "clients", issuer: issuer.as_str(), name: client_id.as_str(), purpose: "provider-secret" }
    }

    /// A refresh token that has to be shown again; its name is what it is registered by.
    pub fn refresh_token(issuer: &'a IssuerId, name: &'a str) -> Self {
        Self { table: "refresh_tokens", issuer: issuer.as_str(), name, purpose: "refresh-token" }
    }

    /// A provider's logout token on its way to a client.
    pub fn relayed_token(issuer: &'a IssuerId, client_id: &'a ClientId) -> Self {
        Self { table: "relayed_tokens", issuer: issuer.as_str(), name: client_id.as_str(), purpose: "logout-token" }
    }

    /// What digests are made with, where it is not the sealing key itself any more.
    const fn digest_root() -> Self {
        Self { table: "meta", issuer: "", name: "digest_root", purpose: "digest-root" }
    }

    /// Each part behind its length, so that no two places share an encoding.
    fn associated_data(&self, head: &[u8]) -> Vec<u8> {
        let mut data = head.to_vec();
        for part in [self.table, self.issuer, self.name, self.purpose] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

/// Why sealed octets did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealable {
    /// Sealed in a format this version does not know.
    #[error("it was sealed in an unknown format")]
    UnknownFormat,
    /// Sealed with another key.
    #[error("it was sealed with another key")]
    OtherKey,
    /// Changed, cut short, or moved from where it belongs.
    #[error("it was changed, or belongs elsewhere")]
    Damaged,
}

/// The key secrets are sealed with. Never shown: its octets leave only by [`SealingKey::to_base64`].
pub struct SealingKey {
    current: Key,
    /// Opens what was sealed before the change of keys, or what a process seals that has changed already.
    other: Option<Key>,
    /// What digests are made with: they cannot be made anew from what is stored, so they outlive a change of keys.
    digest_root: Root,
}

type Root = Zeroizing<[u8; KEY_OCTETS]>;

/// One key, ready for use.
struct Key {
    root: Root,
    cipher: LessSafeKey,
    id: [u8; KEY_ID_OCTETS],
}

impl Key {
    fn new(root: Root) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, derive(&root, "seal", "").as_ref()).expect("AES-256 takes keys of 32 octets");
        let mut id = [0; KEY_ID_OCTETS];
        id.iter_mut().zip(derive(&root, "key-id", "").iter()).for_each(|(to, from)| *to = *from);
        Self { root, cipher: LessSafeKey::new(unbound), id }
    }

    fn head(&self) -> [u8; 1 + KEY_ID_OCTETS] {
        let [a, b, c, d] = self.id;
        [VERSION, a, b, c, d]
    }

    fn canary(&self) -> Digest {
        keyed_digest(&self.root, "canary", &[])
    }
}

/// Which key of a [`SealingKey`] made something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The one that seals.
    Current,
    /// The one that only opens.
    Other,
}

impl SealingKey {
    /// A new key.
    pub fn generate(entropy: &Entropy) -> Self {
        let mut root = Zeroizing::new([0; KEY_OCTETS]);
        entropy.fill(root.as_mut());
        Self::from_octets(root)
    }

    /// Reads 64 hexadecimal digits or base64 (either alphabet, padded or not), as a setting carries it.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = text.trim_ascii();
        let octets = if text.len() == 2 * KEY_OCTETS { from_hex(text) } else { from_base64(text) };
        Self::from_random(&octets.ok_or(MALFORMED)?)
    }

    /// Reads a key file: 32 raw octets, or what [`SealingKey::parse`] reads.
    pub fn from_file(content: &[u8]) -> Result<Self, Malformed> {
        if content.len() == KEY_OCTETS {
            return Self::from_random(content);
        }
        Self::parse(std::str::from_utf8(content).map_err(|_| MALFORMED)?)
    }

    /// The key in base64, for the file it is kept in.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.current.root.as_ref()))
    }

    /// Refuses what no random generator gives: 32 printable characters are a phrase somebody typed, 32 equal octets a placeholder.
    fn from_random(octets: &[u8]) -> Result<Self, Malformed> {
        const TYPED: Malformed = Malformed { what: "a sealing key", why: "must be random, not a phrase or a placeholder" };
        let root: [u8; KEY_OCTETS] = octets.try_into().map_err(|_| MALFORMED)?;
        let root = Zeroizing::new(root);
        let typed = root.iter().all(|octet| (0x20..0x7f).contains(octet)) || root.windows(2).all(|pair| pair.first() == pair.last());
        if typed { Err(TYPED) } else { Ok(Self::from_octets(root)) }
    }

    fn from_octets(root: Root) -> Self {
        let digest_root = root.clone();
        Self { current: Key::new(root), other: None, digest_root }
    }

    /// The same key, which also opens what that other one sealed.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self { other: Some(other.current), ..self }
    }

    /// What digests are made with, sealed: to be stored before the key it is made from is given up.
    pub fn sealed_digest_root(&self, root: By, entropy: &Entropy) -> Vec<u8> {
        let root = match (root, &self.other) {
            (By::Other, Some(other)) => &other.root,
            (By::Other, None) | (By::Current, _) => &self.current.root,
        };
        self.seal(&Sealed::digest_root(), root.as_ref(), entropy)
    }

    /// The same key, which makes digests with what was stored.
    pub fn with_digest_root(self, sealed: &[u8]) -> Result<Self, Unsealable> {
        let opened = self.open(&Sealed::digest_root(), sealed)?;
        let octets: [u8; KEY_OCTETS] = opened.as_slice().try_into().map_err(|_| Unsealable::Damaged)?;
        Ok(Self { digest_root: Zeroizing::new(octets), ..self })
    }

    /// The stored root of digests as the current key seals it; none if it does already.
    pub fn reseal_digest_root(&self, sealed: &[u8], entropy: &Entropy) -> Result<Option<Vec<u8>>, Unsealable> {
        self.reseal(&Sealed::digest_root(), sealed, entropy)
    }

    /// Seals a secret for one place: AES-256-GCM with a random nonce, which is safe for 2^32 secrets under one key.
    ///
    /// # Panics
    /// When the secret is larger than AES-GCM allows, which is 64 GiB.
    pub fn seal(&self, place: &Sealed<'_>, secret: &[u8], entropy: &Entropy) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let head = self.current.head();
        let mut text = Zeroizing::new(secret.to_vec());
        let data = Aad::from(place.associated_data(&head));
        let tag = self
            .current
            .cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), data, &mut text)
            .expect("a secret at rest is smaller than 64 GiB");
        [head.as_slice(), &nonce, &text, tag.as_ref()].concat()
    }

    /// Opens what was sealed for the same place with this key, or with the one beside it.
    pub fn open(&self, place: &Sealed<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (&[version, ref id @ ..], rest) = sealed.split_first_chunk::<{ 1 + KEY_ID_OCTETS }>().ok_or(Unsealable::Damaged)?;
        if version != VERSION {
            return Err(Unsealable::UnknownFormat);
        }
        let keys = [Some(&self.current), self.other.as_ref()];
        let key = keys.into_iter().flatten().find(|key| key.id == *id).ok_or(Unsealable::OtherKey)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let data = Aad::from(place.associated_data(&key.head()));
        let opened = key.cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), data, &mut text);
        let length = opened.map_err(|_| Unsealable::Damaged)?.len();
        text.truncate(length);
        Ok(text)
    }

    /// [`SealingKey::seal`], as the database holds it: in base64.
    pub fn seal_text(&self, place: &Sealed<'_>, secret: &[u8], entropy: &Entropy) -> String {
        STANDARD.encode(self.seal(place, secret, entropy))
    }

    /// [`SealingKey::open`], from base64.
    pub fn open_text(&self, place: &Sealed<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        self.open(place, &STANDARD.decode(sealed).map_err(|_| Unsealable::Damaged)?)
    }

    /// What is sealed, sealed anew with the current key; none if that made it.
    pub fn reseal(&self, place: &Sealed<'_>, sealed: &[u8], entropy: &Entropy) -> Result<Option<Vec<u8>>, Unsealable> {
        let secret = self.open(place, sealed)?;
        Ok((!sealed.starts_with(&self.current.head())).then(|| self.seal(place, &secret, entropy)))
    }

    /// Octets only this key makes, to be stored beside what it seals: at the next start they tell whether it is still the same key.
    pub fn canary(&self) -> Vec<u8> {
        self.current.canary().octets().to_vec()
    }

    /// Whose a stored canary is.
    pub fn check_canary(&self, stored: &[u8]) -> Result<By, Unsealable> {
        let made = |key: &Key| constant_time::verify_slices_are_equal(key.canary().octets(), stored).is_ok();
        match &self.other {
            _ if made(&self.current) => Ok(By::Current),
            Some(other) if made(other) => Ok(By::Other),
            Some(_) | None => Err(Unsealable::OtherKey),
        }
    }

    /// HMAC-SHA256 over parts, with a key of its own for each purpose. Without the sealing key nobody can test a guess against it, so it is fit for
    /// secrets people choose. Parts stand behind their lengths: `["ab", "c"]` and `["a", "bc"]` differ.
    pub fn keyed_digest(&self, purpose: &str, parts: &[&[u8]]) -> Digest {
        keyed_digest(&self.digest_root, purpose, parts)
    }
}

fn keyed_digest(root: &[u8; KEY_OCTETS], purpose: &str, parts: &[&[u8]]) -> Digest {
    let key = hmac::Key::new(hmac::HMAC_SHA256, derive(root, "digest", purpose).as_ref());
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut octets = [0; 32];
    octets.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
    Digest::from_octets(octets)
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(hidden)")
    }
}

/// A key for one use (RFC 5869). `use_` is a word of ours without a zero octet, so the pair is encoded unambiguously.
fn derive(root: &[u8; KEY_OCTETS], use_: &str, purpose: &str) -> Zeroizing<[u8; KEY_OCTETS]> {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"logoutd sealing key").extract(root);
    let mut key = Zeroizing::new([0; KEY_OCTETS]);
    extracted
        .expand(&[use_.as_bytes(), &[0], purpose.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .expect("HKDF-SHA256 gives 32 octets");
    key
}

fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |octet: u8| char::from(octet).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let octets: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    octets.filter(|_| rest.is_empty()).map(Zeroizing::new)
}

fn from_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let plain = Zeroizing::new(text.trim_end_matches('=').replace('-', "+").replace('_', "/"));
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(plain.as_bytes()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(seed: u64) -> SealingKey {
        SealingKey::generate(&Entropy::seeded(seed))
    }

    const PLACE: Sealed<'static> = Sealed { table: "keys", issuer: "main", name: "k1", purpose: "private-key" };

    fn sealed(secret: &[u8]) -> Vec<u8> {
        key(1).seal(&PLACE, secret, &Entropy::seeded(2))
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_at_its_place_and_is_not_to_be_seen(secret in proptest::collection::vec(any::<u8>(), 0..200), seed: u64) {
            let octets = key(1).seal(&PLACE, &secret, &Entropy::seeded(seed));
            prop_assert_eq!(&*key(1).open(&PLACE, &octets).unwrap(), &secret);
            prop_assert!(secret.len() < 8 || !octets.windows(secret.len()).any(|window| window == secret));
        }
    }

    #[test]
    fn sealed_octets_open_at_no_other_place() {
        let octets = sealed(b"secret");
        let moved = [
            Sealed { table: "keyz", ..PLACE },
            Sealed { issuer: "other", ..PLACE },
            Sealed { name: "k2", ..PLACE },
            Sealed { purpose: "client-secret", ..PLACE },
            // The same characters, divided otherwise.
            Sealed { issuer: "maink", name: "1", ..PLACE },
            Sealed { table: "keysmain", issuer: "", ..PLACE },
        ];
        for place in moved {
            assert_eq!(key(1).open(&place, &octets), Err(Unsealable::Damaged), "{place:?}");
        }
    }

    #[test]
    fn another_key_is_told_apart_from_damage() {
        assert_eq!(key(2).open(&PLACE, &sealed(b"secret")), Err(Unsealable::OtherKey));
    }

    #[test]
    fn one_flipped_bit_or_one_missing_octet_is_noticed() {
        let octets = sealed(b"secret");
        for position in 0..octets.len() {
            for bit in 0..8 {
                let mut flipped = octets.clone();
                flipped[position] ^= 1 << bit;
                let expected = match position {
                    0 => Unsealable::UnknownFormat,
                    1..=4 => Unsealable::OtherKey,
                    _ => Unsealable::Damaged,
                };
                assert_eq!(key(1).open(&PLACE, &flipped), Err(expected), "bit {bit} of octet {position}");
            }
            assert_eq!(key(1).open(&PLACE, &octets[..position]), Err(Unsealable::Damaged), "cut to {position} octets");
        }
        assert_eq!(key(1).open(&PLACE, &[octets.as_slice(), &[0]].concat()), Err(Unsealable::Damaged));
    }

    #[test]
    fn no_two_seals_of_one_secret_are_alike() {
        let entropy = Entropy::os();
        let seals: HashSet<Vec<u8>> = (0..100).map(|_| key(1).seal(&PLACE, b"secret", &entropy)).collect();
        assert_eq!(seals.len(), 100);
    }

    #[test]
    fn a_canary_knows_its_key() {
        assert_eq!(key(1).check_canary(&key(1).canary()), Ok(By::Current));
        assert_eq!(key(1).beside(key(2)).check_canary(&key(2).canary()), Ok(By::Other));
        assert_eq!(key(2).check_canary(&key(1).canary()), Err(Unsealable::OtherKey));
        assert_eq!(key(1).check_canary(&[]), Err(Unsealable::OtherKey));
    }

    #[test]
    fn a_key_beside_another_opens_what_either_sealed_and_seals_alone() {
        let both = key(2).beside(key(1));
        let old = sealed(b"secret");
        assert_eq!(&*both.open(&PLACE, &old).unwrap(), b"secret");
        let new = both.reseal(&PLACE, &old, &Entropy::seeded(3)).unwrap().unwrap();
        assert_eq!(&*key(2).open(&PLACE, &new).unwrap(), b"secret");
        assert_eq!(both.reseal(&PLACE, &new, &Entropy::seeded(4)), Ok(None), "once is enough");
        assert_eq!(key(2).reseal(&PLACE, &old, &Entropy::seeded(4)), Err(Unsealable::OtherKey));
        assert_eq!(key(2).open_text(&PLACE, &both.seal_text(&PLACE, b"more", &Entropy::seeded(5))).as_deref(), Ok(&b"more".to_vec()));
    }

    #[test]
    fn digests_stay_what_they_were_when_the_key_changes_twice() {
        let digest = |key: &SealingKey| key.keyed_digest("client-secret", &[b"hunter2"]);
        let both = key(2).beside(key(1));
        let root = both.sealed_digest_root(By::Other, &Entropy::seeded(3));
        let second = both.with_digest_root(&root).unwrap();
        assert_eq!(digest(&second), digest(&key(1)));
        assert_eq!(digest(&key(2).with_digest_root(&root).unwrap()), digest(&key(1)));
        let third = key(3).beside(key(2));
        let root = third.reseal_digest_root(&root, &Entropy::seeded(4)).unwrap().unwrap();
        assert_eq!(digest(&key(3).with_digest_root(&root).unwrap()), digest(&key(1)));
    }

    #[test]
    fn a_digest_depends_on_the_key_the_purpose_and_where_the_parts_end() {
        let parts: [&[u8]; 2] = [b"ab", b"c"];
        let digest = key(1).keyed_digest("client-secret", &parts);
        assert_eq!(digest, key(1).keyed_digest("client-secret", &parts));
        let others = [
            key(2).keyed_digest("client-secret", &parts),
            key(1).keyed_digest("fingerprint", &parts),
            key(1).keyed_digest("client-secret", &[b"a", b"bc"]),
            key(1).keyed_digest("client-secret", &[b"abc"]),
            key(1).keyed_digest("client-secret", &[b"ab", b"c", b""]),
        ];
        for other in others {
            assert_ne!(digest, other);
        }
    }

    #[test]
    fn a_key_may_be_written_in_hex_in_base64_or_raw() {
        let original = key(7);
        let base64 = original.to_base64();
        let raw = original.current.root;
        let hex: String =
            raw.iter().flat_map(|octet| [octet >> 4, octet & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        let urlsafe = base64.replace('+', "-").replace('/', "_");
        for text in [base64.as_str(), &hex, &hex.to_uppercase(), &urlsafe, base64.trim_end_matches('='), &format!(" {hex}\n")] {
            assert_eq!(SealingKey::parse(text).unwrap().current.root, raw, "{text}");
            assert_eq!(SealingKey::from_file(text.as_bytes()).unwrap().current.root, raw, "{text}");
        }
        assert_eq!(SealingKey::from_file(raw.as_ref()).unwrap().current.root, raw);
    }

    #[test]
    fn what_nobody_drew_at_random_is_no_key() {
        let placeholder = STANDARD.encode([0; 32]);
        for text in
            ["", "secret", "this phrase has 32 characters .", &"0".repeat(64), &"g".repeat(64), &placeholder, &STANDARD.encode([1; 31])]
        {
            assert!(SealingKey::parse(text).is_err(), "{text}");
        }
        for content in [&b"correct horse battery staple 123"[..], &[7; 32], &[0xff; 33], b""] {
            assert!(SealingKey::from_file(content).is_err());
        }
    }

    #[test]
    fn debug_does_not_tell_the_key() {
        assert_eq!(format!("{:?}", key(1)), "SealingKey(hidden)");
    }
}
