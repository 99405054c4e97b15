//! The certificate the listener shows: read at the start, read again when it changes, and never given up for a worse one.
//!
//! Owns the pair of a certificate and its key. What a connection was begun with it keeps; the next one is shown what is there then. A pair that cannot be
//! used is told of and looked at again, and the one before goes on. Files are compared by what is in them, so that it is all the same whether somebody
//! writes them, moves them or changes where a link leads.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig, crypto};
use zeroize::Zeroizing;

use crate::config::{Readers, TlsFiles};
use crate::egress::{BadIdentity, check_identity, is_in_order, read_certificate};
use crate::lifecycle::Tasks;
use crate::model::{Digest, Timestamp};
use crate::observe::{Chain, ListenerCertificate};
use crate::seams::Clock;
use crate::token::digest_of_token;

/// How often the files are looked at without being asked to.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The largest file that is read, in octets.
const FILE_OCTETS_MAX: u64 = 64 * 1024;

/// Why a certificate cannot be shown. Nothing of the files is repeated.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Others than its owner may read the key.
    #[error("the key {} may be read by others than its owner: chmod 600 it, or 640 where root owns it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate is none, or is over.
    #[error("the certificate {} {why}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: BadIdentity,
    },
    /// The chain is not in order.
    #[error("the chain {} is not in order: the server's own certificate comes first, and each next one must be the issuer of the one before", path.display())]
    Disorder {
        /// Which file.
        path: PathBuf,
    },
    /// The key is none, or is the key of another certificate.
    #[error("the key {} {why}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: BadIdentity,
    },
    /// They are fine by themselves and cannot be used all the same.
    #[error("the certificate {} cannot be shown", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

impl TlsError {
    /// The setting that names what is to blame.
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::File { setting, .. } => setting,
            Self::Certificate { .. } | Self::Disorder { .. } | Self::Unusable { .. } => CERT,
            Self::Exposed { .. } | Self::Key { .. } => KEY,
        }
    }
}

const CERT: &str = "http.tls.cert_file";
const KEY: &str = "http.tls.key_file";

/// A certificate and its key, ready to be shown.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// What a connection begins with.
    pub(super) config: Arc<ServerConfig>,
    /// When the first certificate of the chain expires.
    pub(super) until: Timestamp,
    content: Digest,
}

/// What is in the two files.
struct Content {
    cert: String,
    key: Zeroizing<String>,
}

/// Reads a pair that can be shown now.
pub(super) fn read(files: &TlsFiles, now: Timestamp) -> Result<Pair, TlsError> {
    pair(files, &content(files)?, now)
}

fn content(files: &TlsFiles) -> Result<Content, TlsError> {
    let cert = text(CERT, &files.cert, open(CERT, &files.cert)?)?;
    let key = open(KEY, &files.key)?;
    let metadata = key.metadata().map_err(|source| TlsError::File { setting: KEY, path: files.key.clone(), source })?;
    if Readers::of(&metadata) == Readers::Others {
        return Err(TlsError::Exposed { path: files.key.clone() });
    }
    Ok(Content { cert, key: Zeroizing::new(text(KEY, &files.key, key)?) })
}

fn open(setting: &'static str, path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|source| TlsError::File { setting, path: path.to_owned(), source })
}

fn text(setting: &'static str, path: &Path, file: File) -> Result<String, TlsError> {
    let mut text = String::new();
    let failed = |source| TlsError::File { setting, path: path.to_owned(), source };
    file.take(FILE_OCTETS_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 {
        0..=FILE_OCTETS_MAX => Ok(text),
        _ => Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_OCTETS_MAX} octets")))),
    }
}

fn pair(files: &TlsFiles, content: &Content, now: Timestamp) -> Result<Pair, TlsError> {
    let certificate = |why| TlsError::Certificate { path: files.cert.clone(), why };
    let certified = read_certificate(&content.cert, now).map_err(certificate)?;
    if !is_in_order(&certified) {
        return Err(TlsError::Disorder { path: files.cert.clone() });
    }
    let bad_key = |why| TlsError::Key { path: files.key.clone(), why };
    check_identity(&certified, &content.key).map_err(bad_key)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certified.pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| certificate(BadIdentity::CertificateMalformed))?;
    let key = PrivateKeyDer::from_pem_slice(content.key.as_bytes()).map_err(|_| bad_key(BadIdentity::KeyMalformed))?;
    let config = config(chain, key).map_err(|source| TlsError::Unusable { path: files.cert.clone(), source })?;
    Ok(Pair { config: Arc::new(config), until: certified.expires_at, content: digest(content) })
}

/// TLS 1.2 and 1.3, no client certificates, HTTP/1.1 alone.
fn config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // RFC 7301 6
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn digest(content: &Content) -> Digest {
    digest_of_token(Zeroizing::new([content.cert.as_str(), "\0", content.key.as_str()].concat()).as_bytes())
}

/// What a look at the files found.
enum Look {
    Same,
    Another(Pair),
}

fn look(files: &TlsFiles, shown: Digest, now: Timestamp) -> Result<Look, TlsError> {
    let content = content(files)?;
    // One that expires while it is shown is still better than none.
    if digest(&content) == shown { Ok(Look::Same) } else { pair(files, &content, now).map(Look::Another) }
}

/// What is shown, and since when somebody asked for another look.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) files: TlsFiles,
    pub(super) shown: watch::Sender<Pair>,
    /// Told the end of what is shown.
    pub(super) until: watch::Sender<Option<Timestamp>>,
    /// Asks for a look at once.
    pub(super) again: Arc<Notify>,
    pub(super) clock: Clock,
}

/// Looks at the files until the stop. What is wrong is told once, until it is something else.
pub(super) async fn keep(keeper: Keeper, tasks: Tasks) {
    let mut told = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = keeper.again.notified() => {}
            () = tasks.stop().requested() => return,
        }
        let (files, shown, now) = (keeper.files.clone(), keeper.shown.borrow().content, keeper.clock.now());
        // A file may be on a disk that is away.
        let Ok(looked) = tasks.spawn_blocking("certificate", move || look(&files, shown, now)).await else { continue };
        let trouble = looked.as_ref().err().map(|error| Chain(error).to_string());
        match looked {
            Ok(Look::Same) => {}
            Ok(Look::Another(pair)) => {
                ListenerCertificate::Taken { until: pair.until }.emit();
                keeper.until.send_replace(Some(pair.until));
                keeper.shown.send_replace(pair);
            }
            Err(error) if trouble != told => ListenerCertificate::Refused { error: &error, setting: error.setting() }.emit(),
            Err(_) => {}
        }
        told = trouble;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn made(not_after: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["logout.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(not_after, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn files(directory: &Path, cert: &str, key: &str, mode: u32) -> TlsFiles {
        let files = TlsFiles { cert: directory.join("tls.crt"), key: directory.join("tls.key") };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        files
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_told_with_the_file_and_the_setting_and_without_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let ((cert, key), (old, old_key), (other, other_key)) = (made(2040), made(2020), made(2041));
        assert_eq!(
            read(&files(directory.path(), &cert, &key, 0o600), NOW).unwrap().until,
            Timestamp::parse("2040-01-01T00:00:00Z").unwrap()
        );
        for (cert, key, mode, setting, why) in [
            (cert.as_str(), key.as_str(), 0o604, KEY, "may be read by others"),
            (&cert, &other_key, 0o600, KEY, "must be the key of the first certificate"),
            (&cert, "hello", 0o600, KEY, "must be one private key"),
            (&old, &old_key, 0o600, CERT, "has expired"),
            ("hello", &key, 0o600, CERT, "must be one or more certificates"),
            (&format!("{cert}{key}"), &key, 0o600, CERT, "must be one or more certificates"),
            (&format!("{other}{cert}"), &other_key, 0o600, CERT, "must be"),
        ] {
            let files = files(directory.path(), cert, key, mode);
            let Err(error) = read(&files, NOW) else {
                assert!(why == "must be", "{why}");
                continue;
            };
            let told = error.to_string();
            let blamed = if setting == KEY { &files.key } else { &files.cert };
            assert!(error.setting() == setting && told.contains(why) && told.contains(&blamed.display().to_string()), "{told}");
            assert!(!told.contains("BEGIN"), "{told}");
        }
        let missing = TlsFiles { cert: directory.path().join("none"), key: directory.path().join("tls.key") };
        assert!(read(&missing, NOW).unwrap_err().to_string().contains("none cannot be read"));
    }

    #[test]
    fn a_look_finds_another_pair_and_only_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let ((cert, key), (next, next_key)) = (made(2040), made(2041));
        let first = read(&files(directory.path(), &cert, &key, 0o600), NOW).unwrap();
        let there = files(directory.path(), &cert, &key, 0o600);
        assert!(matches!(look(&there, first.content, NOW), Ok(Look::Same)));
        // Between the two of a new pair.
        let half = files(directory.path(), &next, &key, 0o600);
        assert!(matches!(look(&half, first.content, NOW), Err(TlsError::Key { why: BadIdentity::KeyOfAnother, .. })));
        let whole = files(directory.path(), &next, &next_key, 0o600);
        assert!(matches!(look(&whole, first.content, NOW), Ok(Look::Another(pair)) if pair.until > first.until));
        let late = Timestamp::parse("2050-01-01T00:00:00Z").unwrap();
        assert!(
            matches!(look(&files(directory.path(), &cert, &key, 0o600), first.content, late), Ok(Look::Same)),
            "an old one is better than none"
        );
    }
}
