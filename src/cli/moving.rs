//! `logoutd move`: from a SQLite file to PostgreSQL.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::output::print;
use super::{Error, Variables};
use crate::app::copies;
use crate::config::{Arguments, Config, Mode};
use crate::store::moving::TableMoved;

const AFTER_HELP: &str = "Stop the server first. If it is interrupted, run it again: it goes on where it stopped. From the first row \
                          on no server serves either side, until everything is moved and compared; from then on the file is not served any more.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct MoveArgs {
    /// The file to move: sqlite://file
    #[arg(long, value_name = "URL")]
    from: String,
    #[arg(long, value_name = "URL", help = "Where it goes: postgres://user@host/name [env: LOGOUTD_DATABASE_URL]")]
    to: Option<String>,
    /// Take the mark off a moved file instead, so that it is served again; the next start opens a gap from the move on
    #[arg(long, conflicts_with_all = ["to", "page_rows"])]
    release: bool,
    /// How many rows one transaction carries
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    page_rows: u16,
    #[arg(long, value_name = "FILE", help = "A TOML file of settings, with the sealing key [env: LOGOUTD_CONFIG]")]
    config: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: MoveArgs, variables: Variables) -> Result<(), Error> {
    let load = |database_url: Option<String>| {
        let arguments = Arguments { config: args.config.clone(), database_url, listen: None, mode: Mode::Production };
        Config::load(&arguments, variables.clone())
    };
    let from = load(Some(args.from.clone()))?;
    if args.release {
        copies::release(&from).await?;
        return match args.json {
            true => print(&json!({ "released": from.database.url.to_string() }).to_string()),
            false => print(&format!("{} is served again", from.database.url)),
        };
    }
    let to = load(args.to.clone())?;
    let moved = copies::move_from(&from, &to, args.page_rows).await?;
    if args.json {
        let tables: Vec<Value> =
            moved.iter().map(|TableMoved { table, rows, digest }| json!({ "table": table, "rows": rows, "digest": digest })).collect();
        return print(&json!({ "to": to.database.url.to_string(), "tables": tables }).to_string());
    }
    print(&format!("{:<24}{:>12}  {}", "table", "rows", "digest"))?;
    moved.iter().try_for_each(|TableMoved { table, rows, digest }| print(&format!("{table:<24}{rows:>12}  {digest}")))?;
    print(&format!(
        "Both sides are the same. Serve {} from now on; {} is kept, and not served any more.",
        to.database.url, from.database.url
    ))
}
