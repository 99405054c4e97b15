//! Values that must not be told: they are wiped when dropped and never printed.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// A text that is neither logged nor shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text into keeping.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A key of 256 bits, written as base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyOctets(Zeroizing<[u8; 32]>);

impl KeyOctets {
    /// Takes the octets into keeping.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// Reads base64 in either alphabet, padded or not, surrounded by white space or not; none unless it is exactly 32 octets.
    pub fn parse(text: &str) -> Option<Self> {
        use base64::Engine as _;
        let plain = Zeroizing::new(text.trim().trim_end_matches('=').replace('+', "-").replace('/', "_"));
        let octets = Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(plain.as_bytes()).ok()?);
        <[u8; 32]>::try_from(octets.as_slice()).ok().map(Self::new)
    }

    /// The key as [`KeyOctets::parse`] reads it: base64url without padding.
    pub fn to_text(&self) -> Secret {
        use base64::Engine as _;
        Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.octets()))
    }

    /// The octets themselves, for the one place that needs them.
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyOctets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyOctets(hidden)")
    }
}

/// A file with a secret that others than its owner may read, and that is used all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The setting, or the member of what is declared, that names it.
    pub setting: String,
    /// Which file.
    pub path: PathBuf,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner, and whom root lends it to.
    Owner,
    /// Others as well.
    Others,
}

impl Readers {
    /// Those of a file that is open.
    pub fn of(file: &Metadata) -> Self {
        Self::by(file.mode(), file.uid())
    }

    /// What is root's may be lent to a group: that is how a process that is not root is given a secret (a credential of systemd's, a secret mounted by
    /// Kubernetes, Debian's `ssl-cert`).
    const fn by(mode: u32, owner: u32) -> Self {
        let others = if owner == 0 { 0o037 } else { 0o077 };
        if mode & others == 0 { Self::Owner } else { Self::Others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_root_s_may_be_lent_to_a_group_and_nobody_else_s() {
        for (mode, owner, readers) in [
            (0o600, 1000, Readers::Owner),
            (0o400, 1000, Readers::Owner),
            (0o640, 1000, Readers::Others),
            (0o640, 0, Readers::Owner),
            (0o440, 0, Readers::Owner),
            (0o660, 0, Readers::Others),
            (0o644, 0, Readers::Others),
            (0o604, 1000, Readers::Others),
            (0o601, 0, Readers::Others),
        ] {
            assert_eq!(Readers::by(mode, owner), readers, "{mode:o} of {owner}");
        }
    }

    #[test]
    fn neither_a_secret_nor_a_key_tells_itself_in_debug_output() {
        let shown = format!("{:?} {:?}", Secret::new("hunter2hunter2"), KeyOctets::new([65; 32]));
        assert!(!shown.contains("hunter2") && !shown.contains("65") && !shown.contains("AAAA"), "{shown}");
    }

    #[test]
    fn a_key_is_read_in_both_alphabets_and_back_again() {
        let key = KeyOctets::new([0xfb; 32]);
        assert_eq!(KeyOctets::parse(key.to_text().expose()), Some(key.clone()));
        assert_eq!(KeyOctets::parse("+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=\n"), Some(key));
    }

    #[test]
    fn a_key_of_another_length_is_no_key() {
        for text in ["", "AAAA", "not base64 at all!", &"A".repeat(42), &"A".repeat(44)] {
            assert_eq!(KeyOctets::parse(text), None, "{text}");
        }
    }
}
