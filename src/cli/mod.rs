//! The command line: a server to start, a configuration to check, and a client of the HTTP API.
//!
//! Owns the arguments and what is printed. Never decides anything a caller of the HTTP API could not decide, and never opens the database but to migrate
//! it, copy it, put a copy in its place or move it. Standard output carries the result alone, so that a script can take it; everything else goes to standard error.

mod alarm;
mod asking;
mod audit;
mod check_config;
mod client;
mod consent;
mod copies;
mod cut_off;
mod delivery;
mod denylist;
mod error;
mod gap;
mod issuer;
mod keys;
mod kill;
mod logout;
mod moving;
mod output;
mod plain;
mod receipt;
mod refusal;
mod registered;
mod server;
mod session;
mod subject;
mod target;
mod token;
mod watch;
mod when;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::asking::{Asking, Family, Lone};
use self::check_config::settled;
pub use self::error::Error;
use self::output::{Output, print};
pub use self::refusal::Refusal;
use self::server::Server;
use crate::app;
use crate::config::{Arguments, Config, LogFormat, LogLevel, Mode, Secret};
pub use crate::observe::Chain;
use crate::observe::logging;
use crate::seams::Entropy;

/// The arguments of `logoutd`.
#[derive(Debug, Parser)]
#[command(name = "logoutd", version, about = "A coordinator for OpenID Connect back-channel logout", disable_help_subcommand = true,
    after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Most commands take an ISSUER, the short id of a provider: `logoutd issuer list` shows them. At night: status, kill, logout, delivery, client, alarm.
`logoutd COMMAND --help` says the rest, and which variables it reads.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Check the configuration, show it without its secrets, or tell every mistake
    CheckConfig(check_config::CheckArgs),
    /// Bring the database to this version's schema
    Migrate(ServeArgs),
    /// Copy a SQLite database, whether or not a server uses it
    Backup(copies::BackupArgs),
    /// Put a backup where the database belongs, while no server runs
    Restore(copies::RestoreArgs),
    /// Where is this person still in? Sessions, and applications with why and until when
    Status(Lone<session::StatusArgs>),
    /// End sessions, or somebody's part at an application, and tell everybody who must know
    Kill(Box<Lone<kill::KillArgs>>),
    /// Logouts: their receipts, their progress, their undoing
    Logout(Family<logout::Command>),
    /// Sessions as they stand, and by the provider's list of what lives
    Session(Family<session::Command>),
    /// People: erase what is kept of one
    Subject(Family<subject::Command>),
    /// Conditions that need attention
    Alarm(Family<alarm::Command>),
    /// Who is to be told what, and every attempt
    Delivery(Family<delivery::Command>),
    /// Issuers: the providers whose sessions are ended here
    Issuer(Family<issuer::Command>),
    /// Clients: the applications that are told
    Client(Family<client::Command>),
    /// Cut-offs by order: tokens issued before an instant are inactive
    CutOff(Family<cut_off::Command>),
    /// Tokens and sessions whose tokens are refused until they would have expired
    Denylist(Family<denylist::Command>),
    /// Move a database from SQLite to PostgreSQL, while no server runs
    Move(moving::MoveArgs),
    /// Stretches of time of which a restored database knows nothing
    Gap(Family<gap::Command>),
    /// API tokens
    Token(Family<token::Command>),
    /// Signing keys, and the key they are sealed with
    Keys(Family<keys::Command>),
    /// The audit trail, and whether it is whole
    Audit(Family<audit::Command>),
    /// Signed receipts of logouts
    Receipt(Family<audit::ReceiptCommand>),
    /// Print what makes a shell complete these commands, such as `logoutd completions bash > /etc/bash_completion.d/logoutd`
    Completions(CompletionArgs),
}

#[derive(Debug, Args)]
struct CompletionArgs {
    /// For which shell
    shell: clap_complete::Shell,
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

/// The environment of the process, as the configuration and the commands read it.
pub type Variables = Vec<(String, String)>;

/// Reads the arguments; whoever asks for help or misuses them is answered here, with status 0 or 2, and the process ends.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Cli {
    Cli::parse_from(arguments)
}

/// Does what the command line says.
pub async fn run(cli: Cli, variables: Variables) -> Result<(), Error> {
    let desk = |asking: &Asking| Desk::of(asking, &variables);
    match cli.command {
        Command::Serve(args) => serve(&args.into(), variables).await,
        Command::CheckConfig(args) => check_config::run(args, variables),
        Command::Migrate(args) => migrate(&args.into(), variables).await,
        Command::Backup(args) => copies::back_up(args, variables).await,
        Command::Restore(args) => copies::restore(args, variables).await,
        Command::Status(lone) => session::status(lone.args, &desk(&lone.asking)?).await,
        Command::Kill(lone) => kill::run(lone.args, &desk(&lone.asking)?).await,
        Command::Logout(family) => logout::run(family.command, &desk(&family.asking)?).await,
        Command::Session(family) => session::run(family.command, &desk(&family.asking)?).await,
        Command::Subject(family) => subject::run(family.command, &desk(&family.asking)?).await,
        Command::Alarm(family) => alarm::run(family.command, &desk(&family.asking)?).await,
        Command::Delivery(family) => delivery::run(family.command, &desk(&family.asking)?).await,
        Command::Issuer(family) => issuer::run(family.command, &desk(&family.asking)?).await,
        Command::Client(family) => client::run(family.command, &desk(&family.asking)?).await,
        Command::CutOff(family) => cut_off::run(family.command, &desk(&family.asking)?).await,
        Command::Denylist(family) => denylist::run(family.command, &desk(&family.asking)?).await,
        Command::Token(family) => token::run(family.command, &desk(&family.asking)?).await,
        Command::Keys(family) => keys::run(family.command, &desk(&family.asking)?).await,
        Command::Completions(CompletionArgs { shell }) => completions(shell),
        Command::Move(args) => moving::run(args, variables).await,
        Command::Gap(family) => gap::run(family.command, &desk(&family.asking)?).await,
        // Of these some ask nobody.
        Command::Audit(family) => audit::run(family.command, &family.asking, &variables).await,
        Command::Receipt(family) => audit::run_receipt(family.command, &family.asking, &variables).await,
    }
}

/// What a command that asks the server works with.
struct Desk {
    server: Server,
    out: Output,
}

impl Desk {
    fn of(asking: &Asking, variables: &Variables) -> Result<Self, Error> {
        Ok(Self { server: Server::of(asking, variables)?, out: Output::of(asking, variables) })
    }
}

/// Written into memory first: what writes it takes a reader that went away for a reason to panic.
fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "logoutd", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

async fn serve(arguments: &Arguments, variables: Variables) -> Result<(), Error> {
    let mut config = settled(arguments, variables)?;
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

#[cfg(test)]
mod tests {
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
    fn a_name_may_begin_like_an_option() {
        for line in [
            &["logoutd", "keys", "drop", "main", "-kid", "--yes"][..],
            &["logoutd", "session", "show", "main", "-sid", "--json"],
            &["logoutd", "kill", "main", "--sid", "-sid", "--dry-run"],
            &["logoutd", "cut-off", "order", "main", "--sid", "--Tm9-x"],
        ] {
            assert!(Cli::try_parse_from(line).is_ok(), "{line:?}");
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
