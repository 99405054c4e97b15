//! `logoutd subject …`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::consent::consent;
use super::output::{Column, text, time};
use super::plain::plain;
use super::server::route;
use super::words::issuer_id;
use super::{Desk, Error};
use crate::model::IssuerId;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a person nobody: every name of theirs becomes a digest. Refused while they are in anywhere: log them out first
    Erase(EraseArgs),
}

#[derive(Debug, Args)]
pub(super) struct EraseArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The person, by the provider's `sub`
    #[arg(long)]
    sub: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

const ERASED: [Column; 8] = [
    text("sessions", "/sessions"),
    text("participants", "/participants"),
    text("logouts", "/logouts"),
    text("deliveries", "/deliveries"),
    text("tokens", "/tokens"),
    text("cut-offs", "/cut_offs"),
    time("protected until", "/protected_until"),
    text("audit records", "/audit_records"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    let Command::Erase(EraseArgs { issuer, sub, yes }) = command;
    if !yes {
        consent(&format!("this takes the names of {} out of all that is kept at {issuer}, for good", plain(&sub)), "yes")?;
    }
    let path = route(&["issuers", issuer.as_str(), "subjects"])?;
    let answer = server.delete_with(&path, &json!({ "sub": sub })).await?;
    out.facts(&answer, &ERASED)?;
    if met_nobody(&answer.value) {
        eprintln!("nothing was erased: nothing of {} is kept at {issuer}; is it spelt as the provider spells it?", plain(&sub));
    }
    Ok(())
}

/// Whether nothing had that name: who misspelt it must not take it for done. Cut-offs are left for a name that nobody has, too.
fn met_nobody(erased: &Value) -> bool {
    let counts = ["sessions", "participants", "logouts", "deliveries", "tokens", "audit_records"];
    counts.into_iter().all(|name| erased.get(name).and_then(Value::as_u64) == Some(0))
}
