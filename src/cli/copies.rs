//! `logoutd backup` and `logoutd restore`: copies of a SQLite database. PostgreSQL has tools of its own for that.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Error, Variables, print};
use crate::app::copies::{self, Fit, KeyAtHand};
use crate::config::{Arguments, Config, Mode};
use crate::model::Timestamp;
use crate::store::copies::{Copied, Existing};

const BACKUP_AFTER_HELP: &str = "The copy is consistent, whatever the server does meanwhile. The sealing key is never in it: keep that file somewhere \
                                 else, since without it nothing sealed in the copy can be opened.";
const RESTORE_AFTER_HELP: &str = "Logouts that were acknowledged after the backup are not in it. The first start opens a gap at each issuer: tokens from before are \
     inactive until their sessions are reported again, the provider lists what lives, or `logoutd gap close` says that nothing is missing.";

#[derive(Debug, Args)]
struct Where {
    #[arg(long, value_name = "FILE", help = "A TOML file of settings [env: LOGOUTD_CONFIG]")]
    config: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_AFTER_HELP)]
pub(super) struct BackupArgs {
    /// The file to make; it must not exist
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[arg(long, value_name = "URL", help = "The database: sqlite://file [env: LOGOUTD_DATABASE_URL]")]
    database_url: Option<String>,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Args)]
#[command(after_help = RESTORE_AFTER_HELP)]
pub(super) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    #[arg(long, value_name = "URL", help = "Where the database belongs: sqlite://file [env: LOGOUTD_DATABASE_URL]")]
    to: Option<String>,
    /// Put a database that is there aside
    #[arg(long)]
    replace: bool,
    /// When the copy was taken, where it does not say so itself (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = |text: &str| Timestamp::parse(text))]
    taken_at: Option<Timestamp>,
    #[command(flatten)]
    at: Where,
}

fn config(at: &Where, database_url: Option<String>, variables: Variables) -> Result<Config, Error> {
    Ok(Config::load(&Arguments { config: at.config.clone(), database_url, listen: None, mode: Mode::Production }, variables)?)
}

pub(super) async fn back_up(args: BackupArgs, variables: Variables) -> Result<(), Error> {
    let config = config(&args.at, args.database_url, variables)?;
    let taken = copies::back_up(&config, &args.to).await?;
    let to = args.to.display().to_string();
    if args.at.json {
        let KeyAtHand { file, place, fit } = &taken.key;
        let opens = match fit {
            Fit::Opens | Fit::OpensBesidePrevious => Some(true),
            Fit::NothingSealed => None,
            Fit::Wrong(_) => Some(false),
        };
        let key_file = file.as_ref().map(|path| path.display().to_string());
        let key = [("key_file", json!(key_file)), ("key_place", json!(place)), ("key_opens", json!(opens))];
        return print(&told(&taken.copied, [("file", json!(to))].into_iter().chain(key)));
    }
    tell("backup", &to, &taken.copied)?;
    print(&about_key(&taken.key))
}

/// What has to be kept beside a backup.
fn about_key(KeyAtHand { place, fit, .. }: &KeyAtHand) -> String {
    const KEEP: &str = "keep it apart from the backup. Without it the backup cannot be restored.";
    match fit {
        Fit::Opens => format!("The sealing key ({place}) is not in it: {KEEP}"),
        Fit::OpensBesidePrevious => format!(
            "The sealing keys (of {place}, and the one before it) are not in it: keep them apart from the backup. Without them the backup cannot be restored."
        ),
        Fit::NothingSealed => "Nothing in it is sealed: no server has run on this database yet.".to_owned(),
        Fit::Wrong(why) => {
            format!("The sealing key is not in it, and none that opens it is at hand: {}.\nFind the right one, and {KEEP}", causes(why))
        }
    }
}

/// An error with what caused it, in a line.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

pub(super) async fn restore(args: RestoreArgs, variables: Variables) -> Result<(), Error> {
    let config = config(&args.at, args.to, variables)?;
    let existing = if args.replace { Existing::PutAside } else { Existing::Keep };
    let restored = copies::restore(&config, &args.file, args.taken_at, existing).await?;
    let (to, aside) = (config.database.url.to_string(), restored.aside.map(|path| path.display().to_string()));
    if args.at.json {
        return print(&told(&restored.copied, [("database", json!(to)), ("aside", json!(aside))]));
    }
    tell("restored", &to, &restored.copied)?;
    if let Some(aside) = aside {
        print(&format!("was there    {aside}"))?;
    }
    print(
        "The next start opens a gap at each issuer: tokens from before it are inactive until `logoutd gap close`, or until their sessions are known again.",
    )?;
    print(
        "API tokens, client secrets and keys that were revoked or replaced since the backup are good again: take them away again, all that you know of.",
    )
}

fn told<'a>(copied: &Copied, more: impl IntoIterator<Item = (&'a str, Value)>) -> String {
    let Copied { taken_at, bytes, sessions, events } = copied;
    let known =
        [("taken_at", json!(taken_at.to_string())), ("bytes", json!(bytes)), ("sessions", json!(sessions)), ("logouts", json!(events))];
    Value::Object(known.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect()).to_string()
}

fn tell(what: &str, place: &str, copied: &Copied) -> Result<(), Error> {
    let Copied { taken_at, bytes, sessions, events } = copied;
    let lines = [
        (what, place.to_owned()),
        ("taken at", taken_at.to_string()),
        ("size", format!("{bytes} octets")),
        ("sessions", sessions.to_string()),
        ("logouts", events.to_string()),
    ];
    lines.iter().try_for_each(|(name, value)| print(&format!("{name:<13}{value}")))
}
