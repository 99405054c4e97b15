//! `logoutd delivery …`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::output::{Column, count, facts, text, time};
use super::server::{Listing, body, query, route};
use super::when::When;
use super::words::{client_id, delivery_states, issuer_id, reasons};
use super::{Desk, Error};
use crate::model::{ClientId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List deliveries, newest first
    List(ListArgs),
    /// Show a delivery with every attempt at it
    Show(OneArgs),
    /// Try one again at once, also one that was given up
    Retry(OneArgs),
    /// Cancel a pending delivery: its client is not told
    Cancel(OneArgs),
    /// Try all again that were given up and that the filter finds
    #[command(after_help = "After a client was away for a day, or a restore of this database:
    logoutd delivery replay main --client wiki --since 1d
After a client was restored from a backup, and forgot what it had been told since:
    logoutd delivery replay main --client wiki --since 2026-11-22T03:00:00Z --state delivered,rejected,expired")]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only those in this state
    #[arg(long, value_parser = delivery_states())]
    state: Option<String>,
    /// Only those of this logout
    #[arg(long, value_name = "ID", conflicts_with_all = ["since", "until"])]
    logout: Option<String>,
    #[command(flatten)]
    bound: Bound,
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// Only those to this client
    #[arg(long, value_name = "CLIENT", value_parser = client_id)]
    client: Option<ClientId>,
    /// Only those written at this time or later: 2026-11-22T14:00:00Z, or 2h for the last two hours
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,
    /// Only those written before this time
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    until: Option<When>,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The delivery
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only those in these states; rejected, expired and unreachable unless said, delivered only when named
    #[arg(long, value_delimiter = ',', value_parser = delivery_states())]
    state: Vec<String>,
    /// Only those of logouts for this reason
    #[arg(long, value_parser = reasons(), hide_possible_values = true)]
    reason: Option<String>,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
}

const LISTED: [Column; 10] = [
    text("delivery", "/id"),
    text("logout", "/logout"),
    text("kind", "/kind"),
    text("client", "/client_id"),
    text("state", "/state"),
    text("why", "/reason"),
    text("attempts", "/attempts"),
    time("created", "/created_at"),
    time("due", "/due_at"),
    time("settled", "/settled_at"),
];

const SHOWN: [Column; 15] = [
    text("delivery", "/id"),
    text("logout", "/logout"),
    text("kind", "/kind"),
    text("client", "/client_id"),
    text("sid there", "/sid"),
    text("state", "/state"),
    text("why", "/reason"),
    text("class", "/class"),
    text("late joiner", "/late_joiner"),
    text("attempts", "/attempts"),
    time("created", "/created_at"),
    time("due", "/due_at"),
    time("expires", "/horizon_at"),
    time("settled", "/settled_at"),
    time("tokens may work until", "/residual_until").or("unknown"),
];

const ATTEMPTS: [Column; 8] = [
    text("attempt", "/number"),
    time("at", "/started_at"),
    text("ms", "/duration_ms"),
    text("means", "/class"),
    text("status", "/status"),
    text("failure", "/failure"),
    text("address", "/remote_addr"),
    text("answer", "/excerpt"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    match command {
        Command::List(ListArgs { filter, state, logout, bound }) => {
            let (path, parameters) = (filter.path(logout.as_deref())?, filter.parameters());
            let path = query(query(path, parameters), [("state", state)]);
            out.list(&server.list(&path, Listing::All, bound.limit).await?, &LISTED)
        }
        Command::Show(one) => {
            let answer = server.get(&one.path(&[])?).await?;
            out.answer(&answer, |value| {
                let attempts = value.get("attempt_records").and_then(Value::as_array).into_iter().flatten();
                format!("{}\n{}", facts(value, &SHOWN), out.table(attempts, &ATTEMPTS))
            })
        }
        Command::Retry(one) => out.facts(&server.order(&one.path(&["retry"])?).await?, &SHOWN),
        Command::Cancel(one) => out.facts(&server.order(&one.path(&["cancel"])?).await?, &SHOWN),
        Command::Replay(args) => {
            let path = route(&["issuers", args.filter.issuer.as_str(), "deliveries", "replay"])?;
            let answer = server.post(&path, &args.request()).await?.with(&["matched"])?;
            out.answer(&answer, |value| replayed(value, args.dry_run))
        }
    }
}

impl FilterArgs {
    fn path(&self, logout: Option<&str>) -> Result<String, Error> {
        match logout {
            Some(id) => route(&["issuers", self.issuer.as_str(), "logouts", id, "deliveries"]),
            None => route(&["issuers", self.issuer.as_str(), "deliveries"]),
        }
    }

    fn parameters(&self) -> [(&'static str, Option<String>); 3] {
        let now = Clock::system().now();
        [
            ("client_id", self.client.as_ref().map(ToString::to_string)),
            ("since", self.since.map(|when| when.ago(now).to_string())),
            ("until", self.until.map(|when| when.ago(now).to_string())),
        ]
    }
}

impl OneArgs {
    fn path(&self, rest: &[&str]) -> Result<String, Error> {
        route(&[&["issuers", self.issuer.as_str(), "deliveries", &self.id], rest].concat())
    }
}

impl ReplayArgs {
    fn request(&self) -> Value {
        let filter = self.filter.parameters().map(|(name, value)| (name, value.map(Value::String)));
        body(filter.into_iter().chain([
            ("state", (!self.state.is_empty()).then(|| json!(self.state))),
            ("reason", self.reason.as_ref().map(|reason| json!(reason))),
            ("dry_run", self.dry_run.then_some(Value::Bool(true))),
        ]))
    }
}

fn replayed(value: &Value, dry_run: bool) -> String {
    let number = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let matched = count(number("matched"), "delivery", "deliveries");
    match dry_run {
        true => format!("{matched} would be tried again"),
        false => format!(
            "{matched} found: {} are tried again, {} are left to a work that goes on by itself",
            number("reopened"),
            number("remaining")
        ),
    }
}
