//! Why a command failed, what to do about it, and the exit status that says so.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::count;
use super::refusal::Refusal;
use crate::app;
use crate::config::Mistakes;
use crate::model::{ClientId, IssuerId};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// The server or the migration failed.
    #[error(transparent)]
    App(#[from] app::Error),
    /// A variable the command needs is not set, or is not what it should be.
    #[error("{name} {why}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The server could not be asked, or its answer was lost.
    #[error("{base} could not be asked")]
    Unreachable {
        /// Where it was looked for.
        base: String,
        /// What to look at.
        advice: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// The server refused.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The server answered something that is no answer to this.
    #[error("the server's answer is not what this version understands")]
    Misunderstood,
    /// The server answered more than is read.
    #[error("the server's answer has more than {bytes_max} octets: ask for less, with --limit")]
    TooMuch {
        /// How much is read.
        bytes_max: usize,
    },
    /// A file could not be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The command was used wrongly.
    #[error("{why}")]
    Misuse {
        /// In which way.
        why: String,
    },
    /// A client that is named is not registered.
    #[error("nothing was done: no client {client} is registered at {issuer} ({there})")]
    NoClient {
        /// As it was written.
        client: ClientId,
        /// Where it was looked for.
        issuer: IssuerId,
        /// Which ones are.
        there: String,
    },
    /// The person at the terminal thought better of it.
    #[error("nothing was done")]
    Declined,
    /// Nobody can say whether a logout was taken.
    #[error("nobody knows whether the logout was taken: repeat the same command with --idempotency-key {key}, which ends nothing twice")]
    Unknown {
        /// The key under which it was posted.
        key: String,
        /// What was met at last.
        source: Box<Self>,
    },
    /// A logout has settled, and not everybody confirmed it.
    #[error("not everybody confirmed: {who}")]
    Unconfirmed {
        /// Who did not, counted.
        who: String,
    },
    /// A logout is not followed any more, and goes on.
    #[error("the logout goes on; follow it again with: {command}")]
    LeftOff {
        /// How.
        command: String,
    },
    /// What was tried out did not take what it was sent.
    #[error("the {who} cannot be told: {why}")]
    Trial {
        /// What was tried out.
        who: &'static str,
        /// Why.
        why: String,
    },
    /// Relying parties do not find a key that signs.
    #[error("relying parties may refuse what is signed here: {why}")]
    NotFound {
        /// Why.
        why: String,
    },
    /// Not everything was sealed anew.
    #[error("{} not sealed with the current key: repeat, and keep the previous key", count(*left, "secret is", "secrets are"))]
    Left {
        /// How many.
        left: u64,
    },
    /// An audit trail or a receipt is not what it was.
    #[error("not whole: {why}")]
    NotWhole {
        /// In which way, and where.
        why: String,
    },
    /// The result could not be written.
    #[error("the result could not be written")]
    Output(#[from] std::io::Error),
    /// Whoever read the result has read enough.
    #[error("nobody reads the result any more")]
    Unread,
}

impl Error {
    /// A command that was used wrongly.
    pub(super) fn misuse(why: impl Into<String>) -> Self {
        Self::Misuse { why: why.into() }
    }

    /// What to do about it, in lines.
    pub fn advice(&self) -> &str {
        match self {
            Self::Unreachable { advice, .. } => advice,
            Self::Refused(refusal) => &refusal.advice,
            Self::Unknown { source, .. } => source.advice(),
            Self::Variable { name, .. } if name.starts_with("LOGOUTD_TOKEN") => super::refusal::HOW_TO_GET_A_TOKEN,
            Self::Config(_)
            | Self::App(_)
            | Self::Variable { .. }
            | Self::Misunderstood
            | Self::TooMuch { .. }
            | Self::File { .. }
            | Self::Misuse { .. }
            | Self::NoClient { .. }
            | Self::Declined
            | Self::Unconfirmed { .. }
            | Self::LeftOff { .. }
            | Self::Trial { .. }
            | Self::NotFound { .. }
            | Self::Left { .. }
            | Self::NotWhole { .. }
            | Self::Output(_)
            | Self::Unread => "",
        }
    }

    /// Whether it is worth a word: whoever stopped reading knows.
    pub fn is_told(&self) -> bool {
        !matches!(self, Self::Unread)
    }

    /// 2 when the command was used wrongly, 1 when it failed, 0 when nobody wanted more of it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Variable { .. } | Self::Misuse { .. } => ExitCode::from(2),
            Self::Unread => ExitCode::SUCCESS,
            Self::Config(_)
            | Self::App(_)
            | Self::Unreachable { .. }
            | Self::Refused(_)
            | Self::Misunderstood
            | Self::TooMuch { .. }
            | Self::File { .. }
            | Self::NoClient { .. }
            | Self::Declined
            | Self::Unknown { .. }
            | Self::Unconfirmed { .. }
            | Self::LeftOff { .. }
            | Self::Trial { .. }
            | Self::NotFound { .. }
            | Self::Left { .. }
            | Self::NotWhole { .. }
            | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}
