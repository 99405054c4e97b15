//! `logoutd alarm …`

use clap::{Args, Subcommand};

use super::asking::Bound;
use super::output::{Column, text, time};
use super::server::{Listing, query, route};
use super::words::{alarm_kinds, alarm_states, issuer_id};
use super::{Desk, Error};
use crate::model::IssuerId;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what somebody must look at, newest first
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those that stand so
    #[arg(long, value_parser = alarm_states())]
    state: Option<String>,
    /// Only those of this kind
    #[arg(long, value_parser = alarm_kinds())]
    kind: Option<String>,
    /// Only this issuer's
    #[arg(long, value_parser = issuer_id)]
    issuer: Option<IssuerId>,
    #[command(flatten)]
    bound: Bound,
}

const LISTED: [Column; 9] = [
    text("kind", "/kind"),
    text("issuer", "/issuer"),
    text("about", "/about"),
    text("state", "/state"),
    text("message", "/message"),
    text("times", "/count"),
    time("first", "/first_at"),
    time("last", "/last_at"),
    time("over", "/cleared_at"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    let Command::List(ListArgs { state, kind, issuer, bound }) = command;
    let wanted = [("state", state), ("kind", kind), ("issuer", issuer.map(|issuer| issuer.to_string()))];
    out.list(&server.list(&query(route(&["alarms"])?, wanted), Listing::All, bound.limit).await?, &LISTED)
}
