//! Backups, restores and moves, as far as they need the configuration: where the database is, and which key its secrets rest under.

use std::path::{Path, PathBuf};

use super::{Error, KeyError, sealing_key};
use crate::config::{Config, DatabaseUrl, SealingKey};
use crate::model::Timestamp;
use crate::seams::{Clock, Entropy};
use crate::store::copies::{self, Copied, Existing, Restored};
use crate::store::moving::{self, MoveOrder, TableMoved};
use crate::token::By;

/// A backup that was taken.
#[derive(Debug)]
pub struct BackedUp {
    /// What is in it.
    pub copied: Copied,
    /// The sealing key that is at hand, which is not in it.
    pub key: KeyAtHand,
}

/// The sealing key that a command has, beside a copy.
#[derive(Debug)]
pub struct KeyAtHand {
    /// The file it is in, or is to be in; none where a setting holds it.
    pub file: Option<PathBuf>,
    /// Where it is, in words.
    pub place: String,
    /// Whether it is the one that belongs to the copy.
    pub fit: Fit,
}

/// Whether a key opens what is sealed in a copy.
#[derive(Debug)]
pub enum Fit {
    /// It does.
    Opens,
    /// Not without the one before it.
    OpensBesidePrevious,
    /// Nothing is sealed in the copy: no server ever ran on the database.
    NothingSealed,
    /// It does not, or is not there.
    Wrong(KeyError),
}

/// Copies the database, whether or not a server uses it.
pub async fn back_up(config: &Config, to: &Path) -> Result<BackedUp, Error> {
    let copied = copies::back_up(file(config)?, to, &Clock::system()).await?;
    let file = match &config.sealing_key {
        SealingKey::BesideDatabase(path) | SealingKey::InFile(_, path) => Some(path.clone()),
        SealingKey::Given(_) => None,
    };
    let fit = match copies::canary(to).await? {
        None => Fit::NothingSealed,
        Some(canary) => match sealing_key::check(config, &canary) {
            Ok(By::Current) => Fit::Opens,
            Ok(By::Other) => Fit::OpensBesidePrevious,
            Err(error) => Fit::Wrong(error),
        },
    };
    Ok(BackedUp { copied, key: KeyAtHand { file, place: sealing_key::place(config), fit } })
}

/// Puts a backup in the database's place, if the configured key opens what is sealed in it.
pub async fn restore(config: &Config, backup: &Path, taken_at: Option<Timestamp>, existing: Existing) -> Result<Restored, Error> {
    let to = file(config)?;
    if let Some(canary) = copies::canary(backup).await? {
        sealing_key::check(config, &canary)?;
    }
    Ok(copies::restore(backup, to, taken_at, existing, &Clock::system()).await?)
}

/// Moves what is in a SQLite file into the configured PostgreSQL database, whose servers must be able to open what is sealed in it.
pub async fn move_from(from: &Config, to: &Config, page_rows: u16) -> Result<Vec<TableMoved>, Error> {
    let (DatabaseUrl::Sqlite(file), DatabaseUrl::Postgres(url)) = (&from.database.url, &to.database.url) else {
        return Err(Error::Direction);
    };
    if file.is_file()
        && let Some(canary) = copies::canary(file).await?
    {
        sealing_key::check(to, &canary)?;
    }
    let order = MoveOrder { from: file.clone(), to: url.expose().to_owned(), shown: to.database.url.to_string(), page_rows };
    Ok(moving::move_all(&order, &Clock::system(), &Entropy::os()).await?)
}

/// Takes the mark of a move off a SQLite file.
pub async fn release(config: &Config) -> Result<(), Error> {
    match &config.database.url {
        DatabaseUrl::Sqlite(file) => Ok(moving::release(file).await?),
        DatabaseUrl::Postgres(_) => Err(Error::Direction),
    }
}

fn file(config: &Config) -> Result<&Path, Error> {
    match &config.database.url {
        DatabaseUrl::Sqlite(path) => Ok(path),
        DatabaseUrl::Postgres(_) => Err(Error::NotOurs),
    }
}
