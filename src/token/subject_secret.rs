//! Secrets of subjects: derived, so that none is stored, and changed by counting up.
//!
//! A provider that makes a subject's tokens with such a secret loses all of them at once when it changes: they can be verified no more, wherever they
//! are, whether or not anybody asks.

use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::model::{IssuerId, Subject};

/// Octets of an issuer's root, and of each secret that is derived from it.
pub const SECRET_OCTETS: usize = 32;

/// The secret of a subject in one version: HKDF-SHA256 (RFC 5869) of the issuer's root without a salt, where `info` is the issuer's id, the `sub` and
/// the version as 8 octets, each behind its length as 8 octets, most significant first. None when the root is not one.
pub fn subject_secret(root: &[u8], issuer: &IssuerId, sub: &Subject, version: i64) -> Option<Zeroizing<[u8; SECRET_OCTETS]>> {
    if root.len() != SECRET_OCTETS {
        return None;
    }
    let parts = [issuer.as_str().as_bytes(), sub.as_str().as_bytes(), &version.to_be_bytes()];
    let lengths = parts.map(|part| (part.len() as u64).to_be_bytes());
    let info: Vec<&[u8]> = lengths.iter().zip(parts).flat_map(|(length, part)| [length.as_slice(), part]).collect();
    let mut secret = Zeroizing::new([0; SECRET_OCTETS]);
    let filled =
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(root).expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(secret.as_mut()));
    filled.ok().map(|()| secret)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;

    use super::*;
    use crate::token::BASE64URL;

    fn derived(issuer: &str, sub: &str, version: i64) -> String {
        let root: Vec<u8> = (0..32).collect();
        let (issuer, sub) = (IssuerId::parse(issuer).unwrap(), Subject::parse(sub).unwrap());
        BASE64URL.encode(subject_secret(&root, &issuer, &sub, version).unwrap().as_slice())
    }

    /// Computed with the HMAC of Python's standard library, step by step as in RFC 5869 2.
    #[test]
    fn a_secret_is_what_another_library_derives() {
        assert_eq!(derived("main", "alice", 1), "Yj-4mHUGsQceqJDLeV5bGqm66WNmra8ozZCkYV5esww");
        assert_eq!(derived("main", "alice", 2), "u_2sTqKARR8dvuZ8KQ83utbwp-mDOsswHG3mVYBYX0U");
        assert_eq!(derived("main", "é", 1), "1wEvtvpja4WNCZhtTC4Dw-ueBKOpPvasm9Eut1RAsgU");
    }

    #[test]
    fn what_is_no_root_derives_nothing() {
        let (issuer, sub) = (IssuerId::parse("main").unwrap(), Subject::parse("alice").unwrap());
        assert!(subject_secret(&[7; 31], &issuer, &sub, 1).is_none());
        assert!(subject_secret(&[], &issuer, &sub, 1).is_none());
    }

    proptest! {
        #[test]
        fn another_issuer_subject_or_version_has_another_secret(
            one in ("[a-z]{1,3}", "[a-z]{1,3}", 0_i64..4), other in ("[a-z]{1,3}", "[a-z]{1,3}", 0_i64..4),
        ) {
            prop_assume!(one.0 != "v1" && other.0 != "v1");
            prop_assert_eq!(one == other, derived(&one.0, &one.1, one.2) == derived(&other.0, &other.1, other.2));
        }
    }
}
