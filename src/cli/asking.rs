//! What every command takes that asks the server: where it is, and how to print what it says.

use clap::{Args, Subcommand};

/// How a command reaches the server, and how it prints the answer.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Asking the server")]
pub(super) struct Asking {
    #[arg(long, value_name = "URL", global = true, help = "Where the server is [env: LOGOUTD_URL, default: http://127.0.0.1:8080]")]
    pub(super) url: Option<String>,
    /// Print what the server answers, as JSON, and nothing else
    #[arg(long, global = true)]
    pub(super) json: bool,
}

pub(super) const AFTER_HELP: &str = "Environment:
  LOGOUTD_URL         where the server is
  LOGOUTD_TOKEN       the API token to present there, or
  LOGOUTD_TOKEN_FILE  a file that holds it; never an argument, since others see arguments
  LOGOUTD_CA_FILE     certificates in PEM to trust beside the system's
  LOGOUTD_ALLOW_HTTP  1 allows http to other machines, where everybody between can read the token

Exit status: 0 done, 1 failed, 2 used wrongly.";

/// Commands of one noun.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub(super) struct Family<C: Subcommand> {
    #[command(flatten)]
    pub(super) asking: Asking,
    #[command(subcommand)]
    pub(super) command: C,
}

/// One command that asks the server.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Lone<A: Args> {
    #[command(flatten)]
    pub(super) args: A,
    #[command(flatten)]
    pub(super) asking: Asking,
}

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Bound {
    /// How many items at most; page after page is fetched until then
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Arguments, Config, Mode};

    #[test]
    fn what_a_command_reads_from_its_environment_stops_no_server_backup_or_restore() {
        let named = AFTER_HELP.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| word.starts_with("LOGOUTD_"));
        let variables: Vec<_> = named.map(|name| (name.to_owned(), "1".to_owned())).collect();
        assert!(variables.len() >= 5, "{variables:?}");
        let arguments = Arguments { config: None, database_url: None, listen: None, mode: Mode::Production };
        assert!(Config::load(&arguments, variables).is_ok());
    }
}
