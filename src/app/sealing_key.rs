//! The key secrets rest under: found or made at the start, and proven to be the right one.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::{self, Config, Readers};
use crate::seams::Entropy;
use crate::store::{CANARY, DIGEST_ROOT, Store, StoreError, in_full};
use crate::token::{By, SealingKey, Unsealable};

/// A key is 32 octets, or their text.
const FILE_OCTETS_MAX: u64 = 1024;

/// Why there is no sealing key to go on with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file could not be read or made.
    #[error("the sealing key {} cannot be read or written", in_full(path))]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Others than its owner may read it.
    #[error("the sealing key {} may be read by others than its owner: chmod 600 it, or 640 where root owns it", in_full(path))]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
    /// What it holds is no key.
    #[error("what should be the sealing key is none: {why}")]
    Malformed {
        /// What is wrong.
        why: &'static str,
    },
    /// The database was begun with a key that is not there any more.
    #[error(
        "the database was begun with a sealing key, and {} is missing: put it back, or name the key by sealing_key_file (LOGOUTD_SEALING_KEY_FILE)",
        in_full(path)
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Its secrets were sealed with another key.
    #[error(
        "the database was begun with another sealing key than that of {place}: put that one back, or name it by sealing_key_file \
         (LOGOUTD_SEALING_KEY_FILE); to change it, name it as sealing_key_previous_file as well"
    )]
    Other {
        /// Where the key came from that does not fit.
        place: String,
        /// What it could not do.
        source: Unsealable,
    },
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The key from the configuration, or from the file beside the database, which is made when the database is new, and the one beside it. Refuses any
/// with which the database was not begun or sealed anew.
pub(super) async fn sealing_key(config: &Config, store: &Store, entropy: &Entropy) -> Result<SealingKey, KeyError> {
    let canary = store.meta(CANARY).await?;
    let key = match (&config.sealing_key, &canary) {
        (config::SealingKey::Given(octets) | config::SealingKey::InFile(octets, _), _) => {
            SealingKey::from_file(octets.octets()).map_err(malformed)?
        }
        (config::SealingKey::BesideDatabase(path), _) => match read(path)? {
            Some(key) => key,
            // Its predecessor is at hand: this is how a new one is asked for.
            None if canary.is_none() || config.sealing_key_previous.is_some() => make(path, entropy)?,
            None => return Err(KeyError::Missing { path: path.clone() }),
        },
    };
    let key = beside_previous(config, key)?;
    let first = store.meta_once(CANARY, &STANDARD.encode(key.canary())).await?;
    let other = |source| KeyError::Other { place: place(config), source };
    let by = key.check_canary(&decoded(&first).map_err(other)?).map_err(other)?;
    let root = match (store.meta(DIGEST_ROOT).await?, by) {
        (Some(root), _) => Some(root),
        // Written down before the first key is given up, since digests cannot be made anew.
        (None, By::Other) => Some(store.meta_once(DIGEST_ROOT, &STANDARD.encode(key.sealed_digest_root(By::Other, entropy))).await?),
        (None, By::Current) => None,
    };
    match root {
        Some(root) => key.with_digest_root(&decoded(&root).map_err(other)?).map_err(other),
        None => Ok(key),
    }
}

/// Where the key comes from: a file, or a setting that holds it.
pub(super) fn place(config: &Config) -> String {
    match &config.sealing_key {
        config::SealingKey::Given(_) => config.place("sealing_key"),
        config::SealingKey::InFile(_, path) | config::SealingKey::BesideDatabase(path) => in_full(path),
    }
}

/// Which of the keys that are configured, or in the file beside the database, a database with this canary was begun with. Makes nothing.
pub(super) fn check(config: &Config, canary: &str) -> Result<By, KeyError> {
    let key = match &config.sealing_key {
        config::SealingKey::Given(octets) | config::SealingKey::InFile(octets, _) => {
            SealingKey::from_file(octets.octets()).map_err(malformed)?
        }
        config::SealingKey::BesideDatabase(path) => read(path)?.ok_or_else(|| KeyError::Missing { path: path.clone() })?,
    };
    let other = |source| KeyError::Other { place: place(config), source };
    beside_previous(config, key)?.check_canary(&decoded(canary).map_err(other)?).map_err(other)
}

fn beside_previous(config: &Config, key: SealingKey) -> Result<SealingKey, KeyError> {
    Ok(match &config.sealing_key_previous {
        Some(octets) => key.beside(SealingKey::from_file(octets.octets()).map_err(malformed)?),
        None => key,
    })
}

/// What is wrong with the file of the key that was found beside the database; a file that is not there is made, or missed, when that is opened.
pub(super) fn flaw(key: &config::SealingKey) -> Option<String> {
    match key {
        config::SealingKey::Given(_) | config::SealingKey::InFile(..) => None,
        config::SealingKey::BesideDatabase(path) => read(path).err().map(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Unsealable> {
    STANDARD.decode(text).map_err(|_| Unsealable::Damaged)
}

fn malformed(malformed: crate::model::Malformed) -> KeyError {
    KeyError::Malformed { why: malformed.why }
}

fn read(path: &Path) -> Result<Option<SealingKey>, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if Readers::of(&file.metadata().map_err(failed)?) == Readers::Others {
        return Err(KeyError::Exposed { path: path.to_owned() });
    }
    let mut content = zeroize::Zeroizing::new(Vec::new());
    file.take(FILE_OCTETS_MAX).read_to_end(&mut content).map_err(failed)?;
    SealingKey::from_file(&content).map(Some).map_err(malformed)
}

/// Makes the file whole and durable before anything is sealed with it: a secret must never outlive its key.
fn make(path: &Path, entropy: &Entropy) -> Result<SealingKey, KeyError> {
    let key = SealingKey::generate(entropy);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.to_base64().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| KeyError::File { path: path.to_owned(), source })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_that_was_made_is_read_again_and_nobody_else_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logoutd.db.key");
        assert!(read(&path).unwrap().is_none());
        let made = make(&path, &Entropy::os()).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().canary(), made.canary());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make(&path, &Entropy::os()).is_err(), "a key is never overwritten");
    }

    #[test]
    fn a_key_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        make(&path, &Entropy::os()).unwrap();
        for mode in [0o644, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(KeyError::Exposed { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap().write_all(b"secret").unwrap();
        assert!(matches!(read(&path), Err(KeyError::Malformed { .. })));
    }
}
