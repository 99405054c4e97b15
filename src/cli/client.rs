//! `logoutd client …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::asking::Bound;
use super::consent::consent;
use super::output::{Column, Form, Output, facts, text, time};
use super::plain::plain;
use super::server::{Answer, Listing, object_in, query, route};
use super::words::{client_id, issuer_id};
use super::{Desk, Error};
use crate::model::{ClientId, IssuerId};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register a client, or replace its registration: what the file leaves out gets its default, but secrets stay
    Put(PutArgs),
    /// List the clients of an issuer, each with what waits for it
    List(ListArgs),
    /// Show how a client is registered, and how its lane stands
    Show(OneArgs),
    /// Send a client one logout token about nobody; status 1 when it cannot be reached or refuses all tokens. A 2xx counts as the probe of an open breaker
    Test(OneArgs),
    /// Hold deliveries to a client back; their time runs on, and the answer says what expires when
    Pause(OneArgs),
    /// Deliver to a client again
    Resume(OneArgs),
    /// Make all refresh tokens of a client inactive and take no new ones; its users stay in
    Suspend(OneArgs),
    /// Lift a suspension
    Unsuspend(OneArgs),
    /// Delete a client: its refresh tokens are revoked at once
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// A file with a JSON object as the API takes it, its `client_id` among the members; - for standard input
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// First the one that has waited longest to be told something
    #[arg(long)]
    oldest: bool,
    #[command(flatten)]
    bound: Bound,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The client
    #[arg(value_parser = client_id)]
    client_id: ClientId,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Do not tell it what is still to be told; else that goes on with the last URI
    #[arg(long)]
    cancel_deliveries: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

const LISTED: [Column; 9] = [
    text("client", "/client_id"),
    text("name", "/client_name"),
    text("declared", "/declared"),
    text("uri", "/backchannel_logout_uri"),
    text("pending", "/lane/pending"),
    time("oldest", "/lane/oldest"),
    text("breaker", "/lane/breaker"),
    time("paused", "/lane/paused_at"),
    time("suspended", "/suspended_at"),
];

const SHOWN: [Column; 25] = [
    text("client", "/client_id"),
    text("name", "/client_name"),
    text("declared", "/declared"),
    text("uri", "/backchannel_logout_uri"),
    text("needs a sid", "/backchannel_logout_session_required"),
    text("signed with", "/id_token_signed_response_alg"),
    text("has a secret", "/client_secret_registered"),
    text("authenticates by", "/token_endpoint_auth_method"),
    text("keys at", "/jwks_uri"),
    text("claims", "/delivery/claims"),
    text("time-out, ms", "/delivery/timeout_ms"),
    text("in flight at most", "/delivery/max_in_flight"),
    text("tried for, s", "/delivery/horizon_s"),
    text("told of expiry", "/delivery/on_expiry"),
    text("networks", "/delivery/allow_networks"),
    text("pending", "/lane/pending"),
    time("oldest", "/lane/oldest"),
    text("breaker", "/lane/breaker"),
    time("next probe", "/lane/probe_at"),
    time("failing since", "/lane/failing_since"),
    time("parked", "/lane/parked_at"),
    time("paused", "/lane/paused_at"),
    time("suspended", "/suspended_at"),
    time("created", "/created_at"),
    time("updated", "/updated_at"),
];

const TRIED: [Column; 6] = [
    text("means", "/class"),
    text("status", "/status"),
    text("failure", "/failure"),
    text("took, ms", "/duration_ms"),
    text("address", "/remote_addr"),
    text("answer", "/excerpt"),
];

const FORECAST: [Column; 5] = [
    text("client", "/client_id"),
    time("paused since", "/paused_at"),
    text("pending", "/pending"),
    time("first expires", "/first_expires_at"),
    time("last expires", "/last_expires_at"),
];

const EXPIRING: [Column; 2] = [text("expiring", "/count"), time("before", "/before")];

const SUSPENSION: [Column; 2] = [text("client", "/client_id"), time("suspended since", "/suspended_at")];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    match command {
        Command::Put(PutArgs { issuer, file }) => {
            let body = object_in(&file)?;
            let client = body.get("client_id").and_then(Value::as_str).ok_or_else(|| Error::misuse("the file must say the client_id"))?;
            let path = route(&["issuers", issuer.as_str(), "clients", client])?;
            put_told(*out, &server.put(&path, &Value::Object(body.clone())).await?, &SHOWN)
        }
        Command::List(ListArgs { issuer, oldest, bound }) => {
            let path = query(route(&["issuers", issuer.as_str(), "clients"])?, [("order", oldest.then(|| "oldest".to_owned()))]);
            out.list(&server.list(&path, Listing::All, bound.limit).await?, &LISTED)
        }
        Command::Show(one) => out.facts(&server.get(&one.path(&[])?).await?, &SHOWN),
        Command::Test(one) => {
            let answer = server.order(&one.path(&["test"])?).await?;
            out.answer(&answer, tried)?;
            verdict(&answer.value)
        }
        Command::Pause(one) => forecast(*out, &server.order(&one.path(&["pause"])?).await?),
        Command::Resume(one) => forecast(*out, &server.order(&one.path(&["resume"])?).await?),
        Command::Suspend(one) => out.facts(&server.order(&one.path(&["suspend"])?).await?, &SUSPENSION),
        Command::Unsuspend(one) => out.answer(&server.order(&one.path(&["unsuspend"])?).await?, |_| "not suspended".to_owned()),
        Command::Delete(DeleteArgs { one, cancel_deliveries, yes }) => {
            if !yes {
                consent(&format!("this deletes the client {} and revokes all its refresh tokens", one.client_id), one.client_id.as_str())?;
            }
            let path = query(one.path(&[])?, [("deliveries", cancel_deliveries.then(|| "cancel".to_owned()))]);
            out.answer(&server.delete(&path).await?, |_| "deleted".to_owned())
        }
    }
}

impl OneArgs {
    fn path(&self, rest: &[&str]) -> Result<String, Error> {
        route(&[&["issuers", self.issuer.as_str(), "clients", self.client_id.as_str()], rest].concat())
    }
}

/// A registration as it is now; what of the file nobody understood is told aside.
pub(super) fn put_told(out: Output, answer: &Answer, lines: &[Column]) -> Result<(), Error> {
    out.facts(answer, lines)?;
    let ignored = answer.value.get("ignored").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let ignored: Vec<_> = ignored.map(plain).collect();
    if out.form == Form::Human && !ignored.is_empty() {
        eprintln!("nobody here understands, so it was ignored: {}", ignored.join(", "));
    }
    Ok(())
}

fn forecast(out: Output, answer: &Answer) -> Result<(), Error> {
    out.answer(answer, |value| {
        let expiring = value.get("expiring").and_then(Value::as_array).into_iter().flatten();
        let expiring: Vec<_> = expiring.filter(|soon| soon.get("count").and_then(Value::as_u64).unwrap_or(0) > 0).collect();
        let table = if expiring.is_empty() { String::new() } else { format!("\n{}", out.table(expiring, &EXPIRING)) };
        format!("{}{table}", facts(value, &FORECAST))
    })
}

/// What came back, what follows from it and what there is to look at.
fn tried(trial: &Value) -> String {
    let class = trial.get("class").and_then(Value::as_str).unwrap_or_default();
    let is_closed = trial.get("breaker_closed").and_then(Value::as_bool).unwrap_or(false);
    let closed = is_closed.then_some("its breaker was open and is closed by this: what waits for it is due now");
    let lines: Vec<_> = [closed, remark(class)].into_iter().flatten().collect();
    format!("{}{}", facts(trial, &TRIED), lines.join("\n"))
}

/// What to think of an answer; nothing of one that is simply good.
fn remark(class: &str) -> Option<&'static str> {
    Some(match class {
        "delivered_oddly" => "any 2xx counts as done; the specification has 200",
        "refused" => "it answers: whether it refuses every token, or this one because it is about nobody, its own log says",
        "recoverable" => "look at its server, its DNS, its certificate",
        "config_fault" | "redirected" => "look at its URI, its firewall, its login filter",
        "gone" => "it says that it is gone for good: deliveries to it are given up at once; register another URI, or delete it",
        "blocked" => "its address may not be reached from here: look at network.allow and delivery.allow_networks",
        "ours" => "the fault is the server's own, and its log says which",
        _ => return None,
    })
}

/// Whether a client can be told: a refusal of a token about nobody is as good a sign as its acceptance.
fn verdict(trial: &Value) -> Result<(), Error> {
    match trial.get("class").and_then(Value::as_str) {
        Some("delivered" | "delivered_oddly" | "refused") => Ok(()),
        Some(class) => Err(Error::Trial { who: "client", why: plain(class) }),
        None => Err(Error::Misunderstood),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::attempt::OutcomeClass;

    #[test]
    fn a_client_that_answers_a_token_about_nobody_can_be_told() {
        let good: Vec<_> = OutcomeClass::ALL.iter().filter(|class| verdict(&json!({"class": class.as_str()})).is_ok()).collect();
        assert_eq!(good, [&OutcomeClass::Delivered, &OutcomeClass::DeliveredOddly, &OutcomeClass::Refused]);
    }

    #[test]
    fn there_is_a_remark_on_everything_but_a_plain_success() {
        let bare: Vec<_> = OutcomeClass::ALL.iter().filter(|class| remark(class.as_str()).is_none()).collect();
        assert_eq!(bare, [&OutcomeClass::Delivered]);
    }
}
