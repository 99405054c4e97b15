//! `logoutd alarm …`: what somebody must look at, and whether he hears of it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::asking::Bound;
use super::output::{Column, text, time};
use super::server::{Answer, Listing, Server, query, route};
use super::words::{alarm_kinds, alarm_states, issuer_id};
use super::{Desk, Error};
use crate::model::IssuerId;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what somebody must look at, newest first
    List(ListArgs),
    /// Try out whether alarms arrive: raise one that says nothing is wrong, and wait until the webhook has taken it
    Test,
}

/// How long it waits: the server looks every two seconds, and the webhook has ten to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    match command {
        Command::List(ListArgs { state, kind, issuer, bound }) => {
            let wanted = [("state", state), ("kind", kind), ("issuer", issuer.map(|issuer| issuer.to_string()))];
            out.list(&server.list(&query(route(&["alarms"])?, wanted), Listing::All, bound.limit).await?, &LISTED)
        }
        Command::Test => {
            let raised = server.order(&route(&["alarms", "test"])?).await?;
            let arrived = tokio::time::timeout(PATIENCE, arrival(server, &raised.value)).await;
            match arrived {
                Ok(alarm) => out.answer(&alarm?, |_| "the webhook took it; in a minute it is told that it is over".to_owned()),
                Err(_) => {
                    Err(Error::Trial { who: "alarm webhook", why: "it has not taken the alarm; the server's log says why".to_owned() })
                }
            }
        }
    }
}

/// The alarm, as soon as the webhook has taken it or has failed to.
async fn arrival(server: &Server, raised: &Value) -> Result<Answer, Error> {
    let text = |alarm: &Value, name: &str| alarm.get(name).and_then(Value::as_str).map(str::to_owned);
    let (id, since) = (text(raised, "id"), text(raised, "last_at"));
    let path = query(route(&["alarms"])?, [("kind", Some("trial".to_owned()))]);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let answer = server.get(&path).await?;
        let mut items = answer.value.get("items").and_then(Value::as_array).into_iter().flatten();
        let Some(alarm) = items.find(|alarm| text(alarm, "id") == id) else { continue };
        // Both are written in one way, to the millisecond, in UTC.
        if text(alarm, "told_at") >= since {
            return Ok(Answer { text: alarm.to_string(), value: alarm.clone(), status: answer.status });
        }
    }
}
