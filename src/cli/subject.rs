//! `logoutd subject …`

use clap::{Args, Subcommand};
use serde_json::json;

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
    out.facts(&server.delete_with(&path, &json!({ "sub": sub })).await?, &ERASED)
}
