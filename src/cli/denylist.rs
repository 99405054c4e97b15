//! `logoutd denylist …`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::output::{Column, text, time};
use super::server::{Listing, body, route};
use super::when::When;
use super::words::issuer_id;
use super::{Desk, Error};
use crate::model::IssuerId;
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what is refused, newest first
    List(ListArgs),
    /// Refuse one token, or all tokens of a session; no session ends and nobody is told
    Add(AddArgs),
    /// Take something off the denylist
    Lift(LiftArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    #[command(flatten)]
    bound: Bound,
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// One token, by its `jti`
    #[arg(long)]
    jti: Option<String>,
    /// All tokens of a session, by the provider's `sid`
    #[arg(long, conflicts_with = "jti", allow_hyphen_values = true)]
    sid: Option<String>,
    /// When the last of them would have expired: 2026-11-22T14:00:00Z, or 2h for in two hours
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    expires_at: When,
}

#[derive(Debug, Args)]
pub(super) struct LiftArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The entry, as `denylist list` shows it
    id: String,
}

const COLUMNS: [Column; 5] =
    [text("entry", "/id"), text("jti", "/jti"), text("sid", "/sid"), time("expires", "/expires_at"), time("created", "/created_at")];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    let path = |issuer: &IssuerId, rest: &[&str]| route(&[&["issuers", issuer.as_str(), "denylist"], rest].concat());
    match command {
        Command::List(ListArgs { issuer, bound }) => {
            out.list(&server.list(&path(&issuer, &[])?, Listing::All, bound.limit).await?, &COLUMNS)
        }
        Command::Add(args) if args.jti.is_none() && args.sid.is_none() => Err(Error::misuse("say exactly one of: --jti, --sid")),
        Command::Add(args) => out.facts(&server.post(&path(&args.issuer, &[])?, &args.request(&Clock::system())).await?, &COLUMNS),
        Command::Lift(LiftArgs { issuer, id }) => {
            out.answer(&server.delete(&path(&issuer, &[&id])?).await?, |_| "taken off the denylist".to_owned())
        }
    }
}

impl AddArgs {
    fn request(&self, clock: &Clock) -> Value {
        body([
            ("jti", self.jti.as_ref().map(|jti| json!(jti))),
            ("sid", self.sid.as_ref().map(|sid| json!(sid))),
            ("expires_at", Some(json!(self.expires_at.ahead(clock.now()).to_string()))),
        ])
    }
}
