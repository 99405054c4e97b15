//! `logoutd gap …`: what a restored database cannot know, and who answers for it.

use clap::{Args, Subcommand};
use serde_json::json;

use super::asking::Bound;
use super::output::{Column, text, time};
use super::server::{Listing, body, route};
use super::{Desk, Error};
use crate::model::{GapId, IssuerId, Timestamp};

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
    /// Up to when the database knows what happened: the instant it was restored to (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = |text: &str| Timestamp::parse(text))]
    since: Timestamp,
    /// From when on it knows again; now unless said
    #[arg(long, value_name = "TIME", value_parser = |text: &str| Timestamp::parse(text))]
    until: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
    /// The gap, as `gap list` shows it
    #[arg(value_parser = |text: &str| GapId::parse(text).ok_or("is no id of a gap"))]
    gap: GapId,
}

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
        Command::Open(OpenArgs { issuer, since, until }) => {
            let body = body([("since", Some(json!(since.to_string()))), ("until", until.map(|until| json!(until.to_string())))]);
            out.facts(&server.post(&route(&["issuers", issuer.as_str(), "gaps"])?, &body).await?, &LISTED)
        }
        Command::Close(CloseArgs { issuer, gap }) => {
            out.facts(&server.order(&route(&["issuers", issuer.as_str(), "gaps", gap.as_str(), "close"])?).await?, &LISTED)
        }
    }
}
