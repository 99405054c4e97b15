//! `logoutd token …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::output::{Column, Form, print, text, time};
use super::server::{Listing, body, query, route};
use super::{Desk, Error};
use crate::model::access::Role;
use crate::model::{ClientId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mint an API token and print it, the only time it is shown
    Create(CreateArgs),
    /// List API tokens, revoked and expired ones too, never their values
    List(ListArgs),
    /// Revoke an API token at once
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// provider, gateway, client, operator, auditor or admin
    #[arg(long, value_parser = Role::parse)]
    role: Role,
    /// The issuer it is bound to
    #[arg(long, value_parser = |text: &str| IssuerId::parse(text))]
    issuer: Option<IssuerId>,
    /// The client it is bound to
    #[arg(long, value_parser = |text: &str| ClientId::parse(text))]
    client_id: Option<ClientId>,
    /// Let a provider end all sessions of a client or of everyone
    #[arg(long)]
    may_mass_kill: bool,
    /// End its life after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    expires_in_s: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those bound to this issuer
    #[arg(long, value_parser = |text: &str| IssuerId::parse(text))]
    issuer: Option<IssuerId>,
    #[command(flatten)]
    bound: Bound,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The token's id, as `token list` shows it; never its value
    id: String,
}

const LISTED: [Column; 8] = [
    text("id", "/id"),
    text("role", "/role"),
    text("issuer", "/issuer"),
    text("client", "/client_id"),
    text("may mass kill", "/may_mass_kill"),
    time("created", "/created_at"),
    time("expires", "/expires_at"),
    time("revoked", "/revoked_at"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    match command {
        Command::Create(args) => {
            let answer = server.post(&route(&["api-tokens"])?, &request(&args, &Clock::system())).await?;
            let member = |name: &str| answer.value.get(name).and_then(Value::as_str).ok_or(Error::Misunderstood);
            let (id, token) = (member("id")?, member("token")?);
            match out.form {
                Form::Json => out.answer(&answer, |_| String::new()),
                Form::Human => {
                    eprintln!("id {}", super::plain::plain(id));
                    print(&super::plain::plain(token))
                }
            }
        }
        Command::List(ListArgs { issuer, bound }) => {
            let path = query(route(&["api-tokens"])?, [("issuer", issuer.map(|issuer| issuer.to_string()))]);
            out.list(&server.list(&path, Listing::All, bound.limit).await?, &LISTED)
        }
        Command::Revoke(RevokeArgs { id }) => {
            let answer = server.delete(&route(&["api-tokens", &id])?).await?;
            out.answer(&answer, |_| "revoked: it works no more".to_owned())
        }
    }
}

/// The request's body; what was not asked for is left out.
fn request(args: &CreateArgs, clock: &Clock) -> Value {
    body([
        ("role", Some(json!(args.role.as_str()))),
        ("issuer", args.issuer.as_ref().map(|issuer| json!(issuer.as_str()))),
        ("client_id", args.client_id.as_ref().map(|client_id| json!(client_id.as_str()))),
        ("may_mass_kill", args.may_mass_kill.then_some(Value::Bool(true))),
        ("expires_at", args.expires_in_s.map(|seconds| json!(clock.now().plus(Duration::from_secs(seconds)).to_string()))),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command as Any};
    use super::*;

    fn args(line: &[&str]) -> CreateArgs {
        let cli = Cli::try_parse_from(["logoutd", "token", "create"].iter().chain(line)).unwrap();
        let Any::Token(family) = cli.command else { panic!("token is token") };
        let Command::Create(args) = family.command else { panic!("create is create") };
        args
    }

    #[test]
    fn what_was_not_asked_for_is_left_out_of_the_request() {
        let clock = Clock::system();
        assert_eq!(request(&args(&["--role", "auditor"]), &clock), json!({"role": "auditor"}));
        let full = args(&["--role", "provider", "--issuer", "main", "--may-mass-kill", "--expires-in-s", "60"]);
        let body = request(&full, &clock);
        assert_eq!((&body["issuer"], &body["may_mass_kill"]), (&json!("main"), &json!(true)));
        let expires_at = crate::model::Timestamp::parse(body["expires_at"].as_str().unwrap()).unwrap();
        assert!(expires_at.since(clock.now()) > Duration::from_secs(50));
    }
}
