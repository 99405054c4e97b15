//! `logoutd gap …`: what a restored database cannot know, and who answers for it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::consent::consent;
use super::output::{Column, count, text, time};
use super::plain::plain;
use super::server::{Listing, Server, body, query, route};
use super::when::When;
use super::{Desk, Error};
use crate::model::{GapId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show an issuer's gaps, open and closed
    List(ListArgs),
    /// Say that the database knows nothing of a stretch of time: tokens from before its end are inactive until their sessions are reported again
    Open(OpenArgs),
    /// Say that nothing is missing: tokens are as good as before
    Close(CloseArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
    #[command(flatten)]
    bound: Bound,
}

#[derive(Debug, Args)]
pub(super) struct OpenArgs {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
    /// Up to when the database knows what happened, the instant it was restored to: 2026-11-22T14:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: When,
    /// From when on it knows again; now unless said
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    until: Option<When>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
    /// The gap, as `gap list` shows it
    #[arg(value_parser = |text: &str| GapId::parse(text).ok_or("is no id of a gap"))]
    gap: GapId,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// How many live sessions are looked through before somebody is asked.
const LOOKED_MAX: u32 = 1000;

/// How long a gap is felt.
const UNTIL_WHEN: &str = "until their sessions are reported again or the gap is closed";

const LISTED: [Column; 7] = [
    text("gap", "/id"),
    time("since", "/since"),
    time("until", "/until"),
    text("cause", "/cause"),
    time("listed", "/listed_at"),
    time("closed", "/closed_at"),
    text("by", "/closed_by"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    match command {
        Command::List(ListArgs { issuer, bound }) => {
            let path = route(&["issuers", issuer.as_str(), "gaps"])?;
            out.list(&server.list(&path, Listing::All, bound.limit).await?, &LISTED)
        }
        Command::Open(OpenArgs { issuer, since, until, yes }) => {
            let now = Clock::system().now();
            let instant = |when: When| json!(when.ago(now).to_string());
            if !yes {
                consent(
                    &format!(
                        "this makes the tokens of {issuer} inactive that are from before the end of the gap, whoever has them, {UNTIL_WHEN}"
                    ),
                    "yes",
                )?;
            }
            let body = body([("since", Some(instant(since))), ("until", until.map(instant))]);
            let answer = server.post(&route(&["issuers", issuer.as_str(), "gaps"])?, &body).await?;
            out.facts(&answer, &LISTED)?;
            let id = answer.value.get("id").and_then(Value::as_str).ok_or(Error::Misunderstood)?;
            eprintln!("tokens from before its end are inactive, {UNTIL_WHEN}; this closes it: logoutd gap close {issuer} {}", plain(id));
            Ok(())
        }
        Command::Close(CloseArgs { issuer, gap, yes }) => {
            if !yes {
                consent(
                    &format!(
                        "this makes tokens of {issuer} from before the gap's end good again, whoever has them, {} among them; also those of logouts that this \
                         database does not know of",
                        hidden(server, &issuer).await?
                    ),
                    "yes",
                )?;
            }
            out.facts(&server.order(&route(&["issuers", issuer.as_str(), "gaps", gap.as_str(), "close"])?).await?, &LISTED)
        }
    }
}

/// How many sessions come back when a gap is closed, in words.
async fn hidden(server: &Server, issuer: &IssuerId) -> Result<String, Error> {
    let live = query(route(&["issuers", issuer.as_str(), "sessions"])?, [("state", Some("live".to_owned()))]);
    let listed = server.list(&live, Listing::All, LOOKED_MAX).await?.value;
    let sessions = listed.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let in_gap = sessions.iter().filter(|session| session.get("in_gap").and_then(Value::as_bool) == Some(true)).count();
    let at_least = if listed.get("next").is_some_and(Value::is_string) { "at least " } else { "" };
    Ok(format!("{at_least}{}", count(u64::try_from(in_gap).unwrap_or(u64::MAX), "live session", "live sessions")))
}
