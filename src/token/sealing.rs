//! The sealing key: what protects secrets at rest, and what makes digests useless to whoever has the database alone.
//!
//! One key of 32 octets, held outside the database. Every use derives its own key from it with HKDF, so that no two uses can be played against
//! each other. Sealed octets say by which format and which key they were sealed, so that both can be changed later.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::model::{Digest, IssuerId, Malformed};
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
    root: Zeroizing<[u8; KEY_OCTETS]>,
    cipher: LessSafeKey,
    id: [u8; KEY_ID_OCTETS],
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
        Zeroizing::new(STANDARD.encode(self.root.as_ref()))
    }

    /// Refuses what no random generator gives: 32 printable characters are a phrase somebody typed, 32 equal octets a placeholder.
    fn from_random(octets: &[u8]) -> Result<Self, Malformed> {
        const TYPED: Malformed = Malformed { what: "a sealing key", why: "must be random, not a phrase or a placeholder" };
        let root: [u8; KEY_OCTETS] = octets.try_into().map_err(|_| MALFORMED)?;
        let root = Zeroizing::new(root);
        let typed = root.iter().all(|octet| (0x20..0x7f).contains(octet)) || root.windows(2).all(|pair| pair.first() == pair.last());
        if typed { Err(TYPED) } else { Ok(Self::from_octets(root)) }
    }

    fn from_octets(root: Zeroizing<[u8; KEY_OCTETS]>) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, derive(&root, "seal", "").as_ref()).expect("AES-256 takes keys of 32 octets");
        let mut id = [0; KEY_ID_OCTETS];
        id.iter_mut().zip(derive(&root, "key-id", "").iter()).for_each(|(to, from)| *to = *from);
        Self { root, cipher: LessSafeKey::new(unbound), id }
    }

    /// Seals a secret for one place: AES-256-GCM with a random nonce, which is safe for 2^32 secrets under one key.
    ///
    /// # Panics
    /// When the secret is larger than AES-GCM allows, which is 64 GiB.
    pub fn seal(&self, place: &Sealed<'_>, secret: &[u8], entropy: &Entropy) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let head = self.head();
        let mut text = Zeroizing::new(secret.to_vec());
        let data = Aad::from(place.associated_data(&head));
        let tag = self
            .cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), data, &mut text)
            .expect("a secret at rest is smaller than 64 GiB");
        [head.as_slice(), &nonce, &text, tag.as_ref()].concat()
    }

    /// Opens what was sealed for the same place with this key.
    pub fn open(&self, place: &Sealed<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (&[version, ref id @ ..], rest) = sealed.split_first_chunk::<{ 1 + KEY_ID_OCTETS }>().ok_or(Unsealable::Damaged)?;
        if version != VERSION {
            return Err(Unsealable::UnknownFormat);
        }
        if *id != self.id {
            return Err(Unsealable::OtherKey);
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let data = Aad::from(place.associated_data(&self.head()));
        let opened = self.cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), data, &mut text);
        let length = opened.map_err(|_| Unsealable::Damaged)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn head(&self) -> [u8; 1 + KEY_ID_OCTETS] {
        let [a, b, c, d] = self.id;
        [VERSION, a, b, c, d]
    }

    /// Octets only this key makes, to be stored beside what it seals: at the next start they tell whether it is still the same key.
    pub fn canary(&self) -> Vec<u8> {
        self.keyed_digest("canary", &[]).octets().to_vec()
    }

    /// Whether a stored canary is this key's.
    pub fn check_canary(&self, stored: &[u8]) -> Result<(), Unsealable> {
        constant_time::verify_slices_are_equal(&self.canary(), stored).map_err(|_| Unsealable::OtherKey)
    }

    /// HMAC-SHA256 over parts, with a key of its own for each purpose. Without the sealing key nobody can test a guess against it, so it is fit for
    /// secrets people choose. Parts stand behind their lengths: `["ab", "c"]` and `["a", "bc"]` differ.
    pub fn keyed_digest(&self, purpose: &str, parts: &[&[u8]]) -> Digest {
        let key = hmac::Key::new(hmac::HMAC_SHA256, derive(&self.root, "digest", purpose).as_ref());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut octets = [0; 32];
        octets.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        Digest::from_octets(octets)
    }
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
        assert_eq!(key(1).check_canary(&key(1).canary()), Ok(()));
        assert_eq!(key(2).check_canary(&key(1).canary()), Err(Unsealable::OtherKey));
        assert_eq!(key(1).check_canary(&[]), Err(Unsealable::OtherKey));
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
        let raw = original.root;
        let hex: String =
            raw.iter().flat_map(|octet| [octet >> 4, octet & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        let urlsafe = base64.replace('+', "-").replace('/', "_");
        for text in [base64.as_str(), &hex, &hex.to_uppercase(), &urlsafe, base64.trim_end_matches('='), &format!(" {hex}\n")] {
            assert_eq!(SealingKey::parse(text).unwrap().root, raw, "{text}");
            assert_eq!(SealingKey::from_file(text.as_bytes()).unwrap().root, raw, "{text}");
        }
        assert_eq!(SealingKey::from_file(raw.as_ref()).unwrap().root, raw);
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
