//! Certificates as they are registered: whether they can be used, whose key is theirs, and until when.
//!
//! Owns the reading of X.509. Never decides whom to trust: that is the handshake.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::pem::Pem;

use super::manner::Identity;
use super::outcome::detail;
use super::{USER_AGENT, recipe};
use crate::model::Timestamp;

/// The longest certificate with those that vouch for it, in octets of PEM.
const CERT_PEM_OCTETS_MAX: usize = 64 * 1024;

/// The longest private key, in octets of PEM.
const KEY_PEM_OCTETS_MAX: usize = 16 * 1024;

/// How many certificates may stand in a chain.
const CHAIN_MAX: usize = 10;

/// Why a certificate cannot be registered. None of it repeats what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// Longer than the bound, or more than a chain has.
    #[error("must not be longer than {CERT_PEM_OCTETS_MAX} octets and {CHAIN_MAX} certificates")]
    CertificateTooLong,
    /// No certificate, or one that cannot be read.
    #[error("must be one or more certificates in PEM and nothing else, its own first")]
    CertificateMalformed,
    /// Its time is over.
    #[error("has expired")]
    Expired,
    /// Longer than the bound.
    #[error("must not be longer than {KEY_PEM_OCTETS_MAX} octets")]
    KeyTooLong,
    /// No key, more than one, or one that cannot be read.
    #[error("must be one private key in PEM, not encrypted: PKCS #8, or RSA or EC of OpenSSL's older form")]
    KeyMalformed,
    /// The key of another certificate.
    #[error("must be the key of the first certificate")]
    KeyOfAnother,
}

impl BadIdentity {
    /// Whether the key is to blame, and not the certificate.
    pub const fn blames_key(self) -> bool {
        match self {
            Self::KeyTooLong | Self::KeyMalformed | Self::KeyOfAnother => true,
            Self::CertificateTooLong | Self::CertificateMalformed | Self::Expired => false,
        }
    }
}

/// A certificate that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// It and those that vouch for it, in PEM, without anything that stood between them.
    pub pem: String,
    /// When the first of them expires.
    pub expires_at: Timestamp,
}

/// Reads a certificate that is to be shown, at an instant of its life.
pub fn read_certificate(pem: &str, now: Timestamp) -> Result<Certified, BadIdentity> {
    if pem.len() > CERT_PEM_OCTETS_MAX {
        return Err(BadIdentity::CertificateTooLong);
    }
    let sections = sections(pem).ok_or(BadIdentity::CertificateMalformed)?;
    // A key among them would be kept and shown.
    if sections.is_empty() || sections.iter().any(|section| section.label != "CERTIFICATE") {
        return Err(BadIdentity::CertificateMalformed);
    }
    if sections.len() > CHAIN_MAX {
        return Err(BadIdentity::CertificateTooLong);
    }
    let expires_at = sections.iter().map(not_after).min().flatten().ok_or(BadIdentity::CertificateMalformed)?;
    if expires_at <= now {
        return Err(BadIdentity::Expired);
    }
    Ok(Certified { pem: sections.iter().map(to_text).collect(), expires_at })
}

/// Decides whether a key is the one of a certificate that [`read_certificate`] has read.
pub fn check_identity(certified: &Certified, key_pem: &str) -> Result<(), BadIdentity> {
    if key_pem.len() > KEY_PEM_OCTETS_MAX {
        return Err(BadIdentity::KeyTooLong);
    }
    let sections = sections(key_pem).ok_or(BadIdentity::KeyMalformed)?;
    let [section] = sections.as_slice() else { return Err(BadIdentity::KeyMalformed) };
    if !matches!(section.label.as_str(), "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY") {
        return Err(BadIdentity::KeyMalformed);
    }
    let identity = Identity::new(&certified.pem, key_pem).to_reqwest().map_err(|_| BadIdentity::KeyMalformed)?;
    // Whether they belong together is only found when a client is made of them, which needs no authorities.
    recipe(USER_AGENT).tls_certs_only([]).identity(identity).build().map_or_else(|error| Err(blame(error)), |_| Ok(()))
}

fn blame(error: reqwest::Error) -> BadIdentity {
    if detail(error).contains("KeyMismatch") { BadIdentity::KeyOfAnother } else { BadIdentity::KeyMalformed }
}

/// Whether each certificate of a chain is named as its issuer by the one before it, as whoever checks it expects (RFC 8446 4.4.2).
pub fn is_in_order(certified: &Certified) -> bool {
    let Some(sections) = sections(&certified.pem) else { return false };
    sections.windows(2).all(|pair| {
        let [one, next] = pair else { return true };
        let parsed = (x509_parser::parse_x509_certificate(&one.contents), x509_parser::parse_x509_certificate(&next.contents));
        matches!(parsed, (Ok((_, one)), Ok((_, next))) if one.issuer().as_raw() == next.subject().as_raw())
    })
}

/// When the first of several certificates in PEM expires; none where there is none that can be read.
pub fn first_expiry(pem: &str) -> Option<Timestamp> {
    sections(pem)?.iter().filter_map(not_after).min()
}

/// The sections of a PEM text; none where one of them is broken.
fn sections(pem: &str) -> Option<Vec<Pem>> {
    Pem::iter_from_buffer(pem.as_bytes()).take(CHAIN_MAX * CHAIN_MAX).collect::<Result<_, _>>().ok()
}

fn not_after(section: &Pem) -> Option<Timestamp> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(&section.contents).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    // 9999-12-31 stands for no end (RFC 5280 4.1.2.5); nothing needs more.
    rest.is_empty().then_some(Timestamp::from_seconds(seconds))
}

/// RFC 7468 3.
fn to_text(section: &Pem) -> String {
    let base64 = STANDARD.encode(&section.contents);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, c) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, date_time_ymd};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-22T02:00:00Z").unwrap()
    }

    fn pair(not_after: i32) -> (String, String) {
        of_key(&KeyPair::generate().unwrap(), not_after)
    }

    fn of_key(key: &KeyPair, not_after: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(not_after, 1, 1);
        (params.self_signed(key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_kept_without_what_stands_around_it_and_its_first_end_is_found() {
        let ((one, _), (other, _)) = (pair(2030), pair(2028));
        let read = read_certificate(&format!("Bag Attributes\n friendlyName: x\n{one}\nsubject=y\n{other}"), now()).unwrap();
        assert_eq!(read.pem, format!("{one}{other}").replace("\r\n", "\n"));
        assert_eq!(read.expires_at, Timestamp::parse("2028-01-01T00:00:00Z").unwrap());
        assert_eq!(first_expiry(&format!("{one}{other}")), Some(read.expires_at));
        assert_eq!(first_expiry("nothing"), None);
    }

    #[test]
    fn a_chain_is_in_order_when_each_is_vouched_for_by_the_next() {
        let named = |name: &str| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params
        };
        let root = rcgen::CertifiedIssuer::self_signed(named("root"), KeyPair::generate().unwrap()).unwrap();
        let middle = rcgen::CertifiedIssuer::signed_by(named("middle"), KeyPair::generate().unwrap(), &root).unwrap();
        let leaf = named("leaf").signed_by(&KeyPair::generate().unwrap(), &middle).unwrap().pem();
        let (root, middle) = (root.pem(), middle.pem());
        let in_order = |chain: [&str; 3]| is_in_order(&Certified { pem: chain.concat(), expires_at: now() });
        assert!(in_order([&leaf, &middle, &root]) && in_order([&leaf, &middle, ""]) && in_order([&leaf, "", ""]));
        assert!(!in_order([&leaf, &root, &middle]) && !in_order([&middle, &leaf, ""]) && !in_order([&leaf, &root, ""]));
    }

    #[test]
    fn a_key_belongs_to_its_own_certificate_alone() {
        for key in [
            KeyPair::generate().unwrap(),
            KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
            KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        ] {
            let (certificate, key) = of_key(&key, 2030);
            let certified = read_certificate(&certificate, now()).unwrap();
            assert_eq!(check_identity(&certified, &key), Ok(()));
            assert_eq!(check_identity(&certified, &pair(2030).1), Err(BadIdentity::KeyOfAnother));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_so_is_a_key_among_certificates() {
        let (certificate, key) = pair(2030);
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let torn = certificate.replace("-----END CERTIFICATE-----", "");
        for pem in [String::new(), "x".to_owned(), key.clone(), format!("{certificate}{key}"), hollow, torn] {
            assert_eq!(read_certificate(&pem, now()), Err(BadIdentity::CertificateMalformed), "{pem}");
        }
        assert_eq!(read_certificate(&pair(2020).0, now()), Err(BadIdentity::Expired));
        assert_eq!(read_certificate(&certificate.repeat(CHAIN_MAX + 1), now()), Err(BadIdentity::CertificateTooLong));
        assert_eq!(read_certificate(&"x".repeat(CERT_PEM_OCTETS_MAX + 1), now()), Err(BadIdentity::CertificateTooLong));
        let certified = read_certificate(&certificate, now()).unwrap();
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let hollow = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned();
        for key in [String::new(), "x".to_owned(), certificate, key.repeat(2), encrypted, hollow] {
            assert_eq!(check_identity(&certified, &key), Err(BadIdentity::KeyMalformed), "{key}");
        }
        assert_eq!(check_identity(&certified, &"x".repeat(KEY_PEM_OCTETS_MAX + 1)), Err(BadIdentity::KeyTooLong));
    }
}
