//! `logoutd token …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::output::{Column, Form, Output, print, text, time};
use super::plain::plain;
use super::registered::registered;
use super::server::{Answer, Listing, body, query, route};
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
    /// Give an API token another value and print it, the only time it is shown; it stays the same token
    Rotate(RotateArgs),
    /// Revoke an API token at once
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// provider (reports sessions, logs out), gateway (asks about tokens), client (sees its own deliveries), operator (logs out anybody, holds and replays
    /// deliveries), auditor (reads everything) or admin
    #[arg(long, value_parser = Role::parse)]
    role: Role,
    /// The issuer it is bound to: needed for provider, gateway and client
    #[arg(long, value_parser = |text: &str| IssuerId::parse(text))]
    issuer: Option<IssuerId>,
    /// The client it is bound to: needed for client
    #[arg(long, value_parser = |text: &str| ClientId::parse(text))]
    client_id: Option<ClientId>,
    /// Let a provider end all sessions of a client or of everyone
    #[arg(long)]
    may_mass_kill: bool,
    /// End its life after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    expires_in_s: Option<u64>,
    /// How many requests it may send in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rate_per_s: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// The token's id, as `token list` shows it; never its value
    id: String,
    /// For how long the value before works too, such as 24h, 30m or 7d; not at all unless said
    #[arg(long, value_name = "TIME", value_parser = overlap)]
    overlap: Option<u64>,
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

/// A number of seconds, minutes, hours or days, in seconds.
fn overlap(text: &str) -> Result<u64, &'static str> {
    const WHY: &str = "must be a number with s, m, h or d behind it, such as 24h";
    let unit = text.chars().last().ok_or(WHY)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(WHY),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or(WHY)?;
    number.checked_mul(seconds).ok_or(WHY)
}

const LISTED: [Column; 11] = [
    text("id", "/id"),
    text("role", "/role"),
    text("issuer", "/issuer"),
    text("client", "/client_id"),
    text("may mass kill", "/may_mass_kill"),
    time("created", "/created_at"),
    time("expires", "/expires_at"),
    time("revoked", "/revoked_at"),
    time("last used, to the hour", "/used_at"),
    time("old value until", "/previous_until"),
    time("old value last used", "/previous_used_at"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    match command {
        Command::Create(args) => {
            tell_once(out, &server.post(&route(&["api-tokens"])?, &request(&args, &Clock::system())).await?)?;
            if let (Some(issuer), Some(client)) = (&args.issuer, &args.client_id)
                && let Err(Error::NoClient { there, .. }) = registered(server, issuer, client).await
            {
                eprintln!("no client {client} is registered at {issuer} yet ({there}): the token works once it is");
            }
            Ok(())
        }
        Command::Rotate(RotateArgs { id, overlap }) => {
            let path = route(&["api-tokens", &id, "rotate"])?;
            tell_once(out, &server.post(&path, &body([("overlap_s", overlap.map(|seconds| json!(seconds)))])).await?)
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

/// Prints the value of a token, which no other answer holds.
fn tell_once(out: &Output, answer: &Answer) -> Result<(), Error> {
    let member = |name: &str| answer.value.get(name).and_then(Value::as_str).ok_or(Error::Misunderstood);
    let (id, token) = (member("id")?, member("token")?);
    match out.form {
        Form::Json => out.answer(answer, |_| String::new()),
        Form::Human => {
            eprintln!("id {}", plain(id));
            if let Ok(until) = member("expires_at") {
                eprintln!("it works until {}", plain(until));
            }
            if let Ok(until) = member("previous_until") {
                eprintln!("the value before works until {}", plain(until));
            }
            print(&plain(token))
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
        ("rate_per_s", args.rate_per_s.map(|rate| json!(rate))),
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
    fn an_overlap_is_a_number_with_its_unit() {
        assert_eq!([overlap("90s"), overlap("30m"), overlap("24h"), overlap("7d")], [Ok(90), Ok(1800), Ok(86_400), Ok(604_800)]);
        for text in ["", "h", "24", "-1h", "1.5h", "1w", "99999999999999999999h", "9999999999999999999d", "1\u{e9}"] {
            assert!(overlap(text).is_err(), "{text}");
        }
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
