//! `logoutd logout …`

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::consent::consent;
use super::output::{Column, count, text, time};
use super::receipt::{Counts, told};
use super::server::{Listing, body, query, route};
use super::watch::watch;
use super::when::When;
use super::words::{client_id, issuer_id, logout_states, reasons};
use super::{Desk, Error};
use crate::model::{ClientId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List logouts, newest first
    List(ListArgs),
    /// Show a receipt: what ended, who was told, who not
    Show(OneArgs),
    /// Follow a logout until it has settled: status 0 when all confirmed, 1 when somebody was given up or cannot be told
    #[command(after_help = "Ctrl-C stops the watching and not the logout; run it again to go on watching.")]
    Watch(OneArgs),
    /// Cancel what is pending and lift the cut-off; what was ended or told stays so
    Undo(UndoArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    #[command(flatten)]
    by: By,
    /// Only those in this state
    #[arg(long, value_parser = logout_states())]
    state: Option<String>,
    /// Only those with a delivery to this client
    #[arg(long, value_name = "CLIENT", value_parser = client_id)]
    client: Option<ClientId>,
    /// Only those for this reason
    #[arg(long, value_parser = reasons(), hide_possible_values = true)]
    reason: Option<String>,
    /// Only those of this time or later: 2026-11-22T14:00:00Z, or 2h for the last two hours
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,
    /// Only those before this time
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    until: Option<When>,
    #[command(flatten)]
    bound: Bound,
}

/// At most one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct By {
    /// Only those that named this person, by the provider's `sub`
    #[arg(long)]
    sub: Option<String>,
    /// Only those that named this session
    #[arg(long, allow_hyphen_values = true)]
    sid: Option<String>,
    /// Only those posted on behalf of somebody
    #[arg(long)]
    actor: Option<String>,
    /// Only those that belong to this ticket or incident
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The logout, as its receipt names it
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What an undoing brings back, and what it does not.
fn about_undoing(receipt: &Value) -> String {
    let ended = count(receipt.get("sessions_ended").and_then(Value::as_u64).unwrap_or(0), "session stays", "sessions stay");
    format!(
        "this lifts what it left behind, so that tokens which it alone made inactive are good again, and tells nobody else ({}); {ended} ended",
        count(Counts::of(receipt).pending, "delivery is pending", "deliveries are pending")
    )
}

const LISTED: [Column; 10] = [
    text("logout", "/id"),
    time("created", "/created_at"),
    text("reason", "/reason"),
    text("target", "/target"),
    text("state", "/state"),
    text("sessions", "/sessions_ended"),
    text("to tell", "/deliveries/total"),
    text("confirmed", "/deliveries/delivered"),
    text("pending", "/deliveries/pending"),
    text("actor", "/actor"),
];

pub(super) async fn run(command: Command, desk: &Desk) -> Result<(), Error> {
    let Desk { server, out } = desk;
    match command {
        Command::List(args) => {
            let now = Clock::system().now();
            let filter = [
                ("state", args.state),
                ("client_id", args.client.map(|client| client.to_string())),
                ("reason", args.reason),
                ("since", args.since.map(|when| when.ago(now).to_string())),
                ("until", args.until.map(|when| when.ago(now).to_string())),
            ];
            let all = route(&["issuers", args.issuer.as_str(), "logouts"])?;
            let answer = match args.by.search() {
                None => server.list(&query(all, filter), Listing::All, args.bound.limit).await?,
                Some(search) => server.list(&query(format!("{all}/search"), filter), Listing::Search(&search), args.bound.limit).await?,
            };
            out.list(&answer, &LISTED)
        }
        Command::Show(one) => out.answer(&server.get(&one.path(&[])?).await?, |receipt| told(*out, receipt)),
        Command::Watch(one) => watch(desk, &one.issuer, &one.id).await,
        Command::Undo(UndoArgs { one, yes }) => {
            if !yes {
                let receipt = server.get(&one.path(&[])?).await?.value;
                if std::io::stdin().is_terminal() {
                    eprintln!("{}", told(*out, &receipt));
                }
                consent(&about_undoing(&receipt), "yes")?;
            }
            out.answer(&server.order(&one.path(&["undo"])?).await?, |receipt| told(*out, receipt))
        }
    }
}

impl OneArgs {
    fn path(&self, rest: &[&str]) -> Result<String, Error> {
        route(&[&["issuers", self.issuer.as_str(), "logouts", &self.id], rest].concat())
    }
}

impl By {
    /// As the API takes it; none for all logouts.
    fn search(&self) -> Option<Value> {
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let members = [
            ("sub", text(&self.sub)),
            ("sid", text(&self.sid)),
            ("actor", text(&self.actor)),
            ("correlation_id", text(&self.correlation_id)),
        ];
        Some(body(members)).filter(|search| *search != json!({}))
    }
}
