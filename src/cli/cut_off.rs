//! `logoutd cut-off …`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::consent::consent;
use super::output::{Column, text, time};
use super::registered::registered;
use super::server::{Listing, body, route};
use super::when::When;
use super::words::{client_id, issuer_id};
use super::{Desk, Error};
use crate::model::{ClientId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the cut-offs that were ordered; those of logouts belong to their receipts
    List(ListArgs),
    /// Make tokens inactive that were issued before an instant; no session ends and nobody is told
    Order(OrderArgs),
    /// Lift a cut-off
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
pub(super) struct OrderArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The tokens of a person, by the provider's `sub`; with --client, those for that application
    #[arg(long, conflicts_with_all = ["sid", "everyone"])]
    sub: Option<String>,
    /// The tokens for an application
    #[arg(long, value_name = "CLIENT", value_parser = client_id, conflicts_with_all = ["sid", "everyone"])]
    client: Option<ClientId>,
    /// The tokens of a session
    #[arg(long, conflicts_with = "everyone", allow_hyphen_values = true)]
    sid: Option<String>,
    /// All tokens
    #[arg(long)]
    everyone: bool,
    /// Those issued before this instant; now unless said
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    not_before: Option<When>,
    /// When it ceases: 2026-11-22T14:00:00Z, or 2h for in two hours; else it holds until it is lifted
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    expires_at: Option<When>,
    /// Do not ask, however many it concerns
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct LiftArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The cut-off, as `cut-off list` shows it
    id: String,
}

const COLUMNS: [Column; 5] = [
    text("cut-off", "/id"),
    text("scope", "/scope"),
    time("not before", "/not_before"),
    time("expires", "/expires_at"),
    time("created", "/created_at"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    let path = |issuer: &IssuerId, rest: &[&str]| route(&[&["issuers", issuer.as_str(), "cut-offs"], rest].concat());
    match command {
        Command::List(ListArgs { issuer, bound }) => {
            out.list(&server.list(&path(&issuer, &[])?, Listing::All, bound.limit).await?, &COLUMNS)
        }
        Command::Order(args) => {
            if args.is_of_nobody() {
                return Err(Error::misuse("say exactly one of: --sub, --client, --sub --client, --sid, --everyone"));
            }
            if let Some(client) = &args.client {
                registered(server, &args.issuer, client).await?;
            }
            if !args.yes && args.is_of_many() {
                consent("this makes the tokens of many people inactive", "yes")?;
            }
            out.facts(&server.post(&path(&args.issuer, &[])?, &args.request(&Clock::system())).await?, &COLUMNS)
        }
        Command::Lift(LiftArgs { issuer, id }) => out.answer(&server.delete(&path(&issuer, &[&id])?).await?, |_| "lifted".to_owned()),
    }
}

impl OrderArgs {
    fn is_of_many(&self) -> bool {
        self.sub.is_none() && self.sid.is_none()
    }

    fn is_of_nobody(&self) -> bool {
        self.sub.is_none() && self.client.is_none() && self.sid.is_none() && !self.everyone
    }

    fn request(&self, clock: &Clock) -> Value {
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let now = clock.now();
        let scope = body([
            ("sub", text(&self.sub)),
            ("client_id", self.client.as_ref().map(|client| json!(client.as_str()))),
            ("sid", text(&self.sid)),
            ("everyone", self.everyone.then_some(Value::Bool(true))),
        ]);
        body([
            ("scope", Some(scope)),
            ("not_before", Some(json!(self.not_before.map_or(now, |when| when.ago(now)).to_string()))),
            ("expires_at", self.expires_at.map(|when| json!(when.ahead(now).to_string()))),
        ])
    }
}
