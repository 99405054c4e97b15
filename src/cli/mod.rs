//! The command line: a server to start, a configuration to check, and a client of the HTTP API.
//!
//! Owns the arguments and what is printed. Never decides anything a caller of the HTTP API could not decide, and never opens the database but to migrate
//! it. Standard output carries the result alone, so that a script can take it; everything else goes to standard error.

mod client;
mod keys;
mod token;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::config::{Arguments, Config, LogFormat, LogLevel, Mistakes, Mode, Secret};
use crate::observe::logging;
use crate::seams::Entropy;

/// The arguments of `logoutd`.
#[derive(Debug, Parser)]
#[command(name = "logoutd", version, about = "A coordinator for OpenID Connect back-channel logout", disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Check the configuration, show it without its secrets, or tell every mistake
    CheckConfig(ServeArgs),
    /// Bring the database to this version's schema
    Migrate(ServeArgs),
    /// API tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Signing keys, and the key they are sealed with
    #[command(subcommand)]
    Keys(keys::Command),
}

/// Where settings come from. Every other setting is in the file or in the environment.
#[derive(Debug, Args)]
struct ServeArgs {
    #[arg(long, value_name = "FILE", help = "A TOML file of settings [env: LOGOUTD_CONFIG]")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "URL", help = "sqlite://file or postgres://user@host/name [env: LOGOUTD_DATABASE_URL]")]
    database_url: Option<String>,
    #[arg(long, value_name = "ADDRESS", help = "Address and port to serve on [env: LOGOUTD_LISTEN]")]
    listen: Option<String>,
    /// Also allow http and loopback, and print an admin token when none is set
    #[arg(long)]
    dev: bool,
}

impl From<ServeArgs> for Arguments {
    fn from(args: ServeArgs) -> Self {
        let ServeArgs { config, database_url, listen, dev } = args;
        Self { config, database_url, listen, mode: if dev { Mode::Dev } else { Mode::Production } }
    }
}

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
    /// The server could not be asked.
    #[error("{url} could not be asked")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// The server refused.
    #[error("the server answered {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its problem document, in a sentence.
        detail: String,
    },
    /// The server answered something that is no answer to this.
    #[error("the server's answer is not what this version understands")]
    Misunderstood,
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
        why: &'static str,
    },
    /// Relying parties do not find a key that signs.
    #[error("relying parties may refuse what is signed here: {why}")]
    NotFound {
        /// Why.
        why: String,
    },
    /// Not everything was sealed anew.
    #[error("{left} secrets are not sealed with the current key: repeat, and keep the previous key")]
    Left {
        /// How many.
        left: u64,
    },
    /// The result could not be written.
    #[error("the result could not be written")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// 2 when the command was used wrongly, 1 when it failed.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Variable { .. } | Self::Misuse { .. } => ExitCode::from(2),
            Self::Config(_)
            | Self::App(_)
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Misunderstood
            | Self::File { .. }
            | Self::NotFound { .. }
            | Self::Left { .. }
            | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

/// The environment of the process, as the configuration and the commands read it.
pub type Variables = Vec<(String, String)>;

/// Reads the arguments; whoever asks for help or misuses them is answered here, with status 0 or 2, and the process ends.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Cli {
    Cli::parse_from(arguments)
}

/// Does what the command line says.
pub async fn run(cli: Cli, variables: Variables) -> Result<(), Error> {
    match cli.command {
        Command::Serve(args) => serve(&args.into(), variables).await,
        Command::CheckConfig(args) => check_config(&args.into(), variables),
        Command::Migrate(args) => migrate(&args.into(), variables).await,
        Command::Token(token::Command::Create(args)) => token::create(args, &variables).await,
        Command::Keys(command) => keys::run(command, &variables).await,
    }
}

async fn serve(arguments: &Arguments, variables: Variables) -> Result<(), Error> {
    let mut config = Config::load(arguments, variables)?;
    start_logging(&config);
    if config.mode == Mode::Dev && config.admin_token.is_none() {
        let token = format!("ldt_{}", Entropy::os().token());
        print(&format!("admin token: {token}"))?;
        config.admin_token = Some(Secret::new(token));
    }
    Ok(app::serve(config).await?)
}

async fn migrate(arguments: &Arguments, variables: Variables) -> Result<(), Error> {
    let config = Config::load(arguments, variables)?;
    start_logging(&config);
    Ok(app::migrate(config).await?)
}

fn check_config(arguments: &Arguments, variables: Variables) -> Result<(), Error> {
    let config = Config::load(arguments, variables)?;
    print("ok")?;
    config.settings().iter().try_for_each(|setting| print(&format!("  {} = {} ({})", setting.path, setting.shown, setting.source)))
}

fn start_logging(config: &Config) {
    let format = match config.log.format {
        LogFormat::Json => logging::Format::Json,
        LogFormat::Text => logging::Format::Text,
    };
    let level = match config.log.level {
        LogLevel::Error => logging::Level::ERROR,
        LogLevel::Warn => logging::Level::WARN,
        LogLevel::Info => logging::Level::INFO,
        LogLevel::Debug => logging::Level::DEBUG,
        LogLevel::Trace => logging::Level::TRACE,
    };
    logging::init(format, level);
}

/// One line of the result. A reader that has gone away is an error and not a panic.
fn print(line: &str) -> Result<(), Error> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_no_command_understands_is_a_misuse() {
        for line in [&["logoutd", "fly"][..], &["logoutd", "serve", "--port", "1"], &["logoutd", "token", "create", "--role", "king"]] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert!(!matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion));
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn arguments_become_settings() {
        let cli = Cli::try_parse_from(["logoutd", "serve", "--dev", "--listen", "127.0.0.1:1", "--database-url", "sqlite://x.db"]).unwrap();
        let Command::Serve(args) = cli.command else { panic!("serve is serve") };
        let config = Config::load(&args.into(), []).unwrap();
        assert_eq!((config.mode, config.http.listen.port()), (Mode::Dev, 1));
        assert_eq!(config.database.url.to_string(), "sqlite://x.db");
    }
}
