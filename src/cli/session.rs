//! `logoutd session …`, and `logoutd status`: where is this person still in?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::Bound;
use super::kill::{ask_about, rehearse};
use super::output::{Column, Form, Output, count, facts, text, time, to_the_second};
use super::plain::plain;
use super::receipt::{blast_radius, told};
use super::server::{Listing, body, content_within, query, route};
use super::target::Breadth;
use super::when::When;
use super::words::{client_id, issuer_id, session_states};
use super::{Desk, Error};
use crate::model::{ClientId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List sessions, newest first: all of them, or those of a person, an application, a device, an address
    List(ListArgs),
    /// Show a session: the live one of that `sid`, else the latest
    Show(ShowArgs),
    /// End what lives here and not at the provider, by the provider's list of what lives
    Reconcile(ReconcileArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    #[command(flatten)]
    by: By,
    /// Only those in this state
    #[arg(long, value_parser = session_states())]
    state: Option<String>,
    #[command(flatten)]
    bound: Bound,
}

/// At most one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct By {
    /// Those of a person, by the provider's `sub`
    #[arg(long)]
    sub: Option<String>,
    /// Those of this `sid`, ended ones too
    #[arg(long, allow_hyphen_values = true)]
    sid: Option<String>,
    /// Those an application takes part in
    #[arg(long, value_name = "CLIENT", value_parser = client_id)]
    client: Option<ClientId>,
    /// Those of a person, by another name, such as email:alice@example.org
    #[arg(long)]
    alias: Option<String>,
    /// Those begun on a device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Those begun at an address
    #[arg(long)]
    ip: Option<IpAddr>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The provider's `sid`
    #[arg(allow_hyphen_values = true)]
    sid: String,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// The person, by the provider's `sub`
    #[arg(long)]
    sub: String,
}

#[derive(Debug, Args)]
pub(super) struct ReconcileArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    /// A file with every `sid` that lives at the provider, one a line; - for standard input
    file: PathBuf,
    /// When the list was made: 2026-11-22T14:00:00Z, or 15m for so long ago; a minute ago unless said. What began since is spared
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    as_of: Option<When>,
    /// The list is empty on purpose: nobody lives at the provider, so everybody here is logged out
    #[arg(long)]
    nobody_lives: bool,
    /// Only show what would end; nothing is done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, however many it ends
    #[arg(long)]
    yes: bool,
}

/// The largest list of what lives, in octets: 100,000 names.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// How long a list takes to be made, unless it is said when it was.
const AGE_OF_LIST: Duration = Duration::from_mins(1);

const LISTED: [Column; 9] = [
    text("sid", "/sid"),
    text("key", "/key"),
    text("sub", "/sub"),
    text("state", "/state"),
    time("started", "/started_at"),
    time("expires", "/expires_at"),
    time("ended", "/ended_at"),
    text("device", "/device/label"),
    text("ip", "/device/ip"),
];

const SHOWN: [Column; 15] = [
    text("sid", "/sid"),
    text("key", "/key"),
    text("sub", "/sub"),
    text("state", "/state"),
    text("ended by", "/ended_by"),
    time("started", "/started_at"),
    time("expires", "/expires_at"),
    time("idle expires", "/idle_expires_at"),
    time("ended", "/ended_at"),
    text("aliases", "/aliases"),
    text("device", "/device/label"),
    text("device id", "/device/id"),
    text("ip", "/device/ip"),
    text("user agent", "/device/user_agent"),
    time("reported", "/created_at"),
];

const PARTICIPANTS: [Column; 7] = [
    text("client", "/client_id"),
    text("sid there", "/sid"),
    text("sub there", "/sub"),
    text("state", "/state"),
    time("joined", "/joined_at"),
    time("ended", "/ended_at"),
    text("ended by", "/ended_by"),
];

const TOKEN_EVENTS: [Column; 4] =
    [text("noticed", "/kind"), text("client", "/client_id"), text("times", "/seen"), time("last", "/last_at")];

const OPEN: [Column; 3] = [text("application", "/client_id"), text("why", "/why"), time("until", "/until")];

pub(super) async fn run(command: Command, desk: &Desk) -> Result<(), Error> {
    let Desk { server, out } = desk;
    match command {
        Command::List(ListArgs { issuer, by, state, bound }) => {
            let all = route(&["issuers", issuer.as_str(), "sessions"])?;
            let mut answer = match by.search() {
                None => server.list(&query(all, [("state", state)]), Listing::All, bound.limit).await?,
                Some(search) => {
                    let path = query(format!("{all}/search"), [("state", state)]);
                    server.list(&path, Listing::Search(&search), bound.limit).await?
                }
            };
            let listed = answer.value.get_mut("items").and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default();
            let hidden = listed.iter().any(is_in_gap);
            listed.iter_mut().for_each(in_words);
            out.list(&answer, &LISTED)?;
            if out.form == Form::Human && hidden {
                eprintln!("{}", until_closed(&issuer));
            }
            Ok(())
        }
        Command::Show(ShowArgs { issuer, sid }) => {
            let answer = server.get(&route(&["issuers", issuer.as_str(), "sessions", &sid])?).await?;
            out.answer(&answer, |value| shown(*out, &issuer, value))
        }
        Command::Reconcile(args) => reconcile(args, desk).await,
    }
}

/// What would end is shown and asked about first. A lost answer does no harm: what ended already is not ended again.
async fn reconcile(args: ReconcileArgs, Desk { server, out }: &Desk) -> Result<(), Error> {
    let ReconcileArgs { issuer, file, as_of, nobody_lives, dry_run, yes } = args;
    let now = Clock::system().now();
    let list = content_within(&file, LIST_BYTES_MAX)?;
    let live = lives(&list, nobody_lives)?;
    // Said here, or whoever thinks for long before the answer would end what began meanwhile.
    let as_of = as_of.map_or_else(|| now.minus(AGE_OF_LIST), |when| when.ago(now));
    let request = json!({ "live": live, "as_of": as_of.to_string() });
    let path = route(&["issuers", issuer.as_str(), "sessions", "reconcile"])?;
    if dry_run {
        return out.answer(&rehearse(server, &path, &request).await?, |receipt| blast_radius(*out, receipt));
    }
    if !yes {
        let rehearsed = rehearse(server, &path, &request).await?.value;
        ask_about(&rehearsed, if nobody_lives { Breadth::Many } else { Breadth::Some }, || blast_radius(*out, &rehearsed))?;
    }
    let answer = server.post(&path, &request).await?;
    out.answer(&answer, |receipt| format!("{}{}", told(*out, receipt), gaps(receipt)))?;
    if items(&answer.value, "gaps").iter().any(is_open) {
        eprintln!("a gap is open still, and tokens from before it are inactive; \"logoutd gap list {issuer}\" shows it");
    }
    Ok(())
}

fn is_open(gap: &Value) -> bool {
    gap.get("state").and_then(Value::as_str) == Some("open")
}

/// What became of each gap that was open, in lines.
fn gaps(receipt: &Value) -> String {
    let line = |gap: &Value| {
        let text = |name: &str| gap.get(name).and_then(Value::as_str).map(plain);
        let [id, state] = ["id", "state"].map(|name| text(name).unwrap_or_else(|| "-".to_owned()));
        let until = text("until").map_or_else(String::new, |until| format!(" until {}", to_the_second(&until)));
        format!("gap {id}{until}: {state}{}\n", text("why").map_or_else(String::new, |why| format!(": {why}")))
    };
    let lines: String = items(receipt, "gaps").iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

/// The names on a list. An empty one is what a query leaves behind that failed, and would log out everybody.
fn lives(list: &str, nobody_lives: bool) -> Result<Vec<&str>, Error> {
    let live: Vec<_> = list.lines().map(str::trim).filter(|sid| !sid.is_empty()).collect();
    match (live.len(), nobody_lives) {
        (0, false) => {
            Err(Error::misuse("the list names no sid, and would log out everybody: if nobody lives at the provider, say --nobody-lives"))
        }
        (1.., true) => Err(Error::misuse(format!(
            "--nobody-lives, and the list names {}: leave one of them out",
            count(live.len() as u64, "sid", "sids")
        ))),
        (0, true) | (1.., false) => Ok(live),
    }
}

/// Where is this person still in?
pub(super) async fn status(args: StatusArgs, Desk { server, out }: &Desk) -> Result<(), Error> {
    let path = route(&["issuers", args.issuer.as_str(), "subjects", "status"])?;
    let answer = server.post(&path, &json!({ "sub": args.sub })).await?.with(&["sessions", "still_open"])?;
    out.answer(&answer, |value| standing(*out, &args, value))
}

impl By {
    /// As the API takes it; none for all sessions.
    fn search(&self) -> Option<Value> {
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let search = body([
            ("sub", text(&self.sub)),
            ("sid", text(&self.sid)),
            ("client_id", self.client.as_ref().map(|client| json!(client.as_str()))),
            ("alias", text(&self.alias)),
            ("device_id", text(&self.device)),
            ("ip", self.ip.map(|ip| json!(ip))),
        ]);
        Some(search).filter(|search| *search != json!({}))
    }
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_in_gap(session: &Value) -> bool {
    session.get("in_gap").and_then(Value::as_bool) == Some(true)
}

/// Of a session in a gap nobody knows whether it lives.
fn in_words(session: &mut Value) {
    if is_in_gap(session)
        && let Some(state) = session.get_mut("state")
    {
        *state = json!("live, in a gap");
    }
}

fn until_closed(issuer: &IssuerId) -> String {
    format!(
        "in a gap: tokens are inactive until the session is reported again or the gap is closed; \"logoutd gap list {issuer}\" shows it"
    )
}

fn shown(out: Output, issuer: &IssuerId, session: &Value) -> String {
    let mut told = session.clone();
    in_words(&mut told);
    let mut shown = facts(&told, &SHOWN);
    if is_in_gap(session) {
        shown.push_str(&format!("{}\n", until_closed(issuer)));
    }
    for (name, columns) in [("participants", &PARTICIPANTS[..]), ("token_events", &TOKEN_EVENTS[..])] {
        let rows = items(session, name);
        if !rows.is_empty() {
            shown.push_str(&format!("\n{}\n", out.table(rows, columns)));
        }
    }
    shown
}

const WHY_OPEN: &str = "live: the session goes on; pending: not told yet; gave_up: it refused or did not answer; unreachable: it can never be told;\n\
                        cancelled: telling it was cancelled; offline_token: it holds a refresh token that outlives the session";

fn standing(out: Output, StatusArgs { issuer, sub }: &StatusArgs, status: &Value) -> String {
    let (sessions, open) = (items(status, "sessions"), items(status, "still_open"));
    let live = sessions.iter().filter(|session| session.get("state").and_then(Value::as_str) == Some("live"));
    let lives = u64::try_from(live.count()).unwrap_or(u64::MAX);
    let sub = plain(sub);
    let there = items(status, "still_open_by_client_sub");
    if sessions.is_empty() && open.is_empty() {
        let unknown = format!("{sub} is not known here: no session was ever reported, or all are forgotten");
        return match there {
            [] => format!("{unknown}; is it spelt as the provider spells it?\n"),
            there => format!("{unknown}.\n{}", by_client_sub(out, &sub, there)),
        };
    }
    let applications: BTreeSet<_> = open.iter().filter_map(|open| open.get("client_id")?.as_str()).collect();
    let mut told = match u64::try_from(applications.len()).unwrap_or(u64::MAX) {
        0 => format!("{sub} is in no application that is known here, and has {}.\n", count(lives, "live session", "live sessions")),
        number => {
            let applications = count(number, "application", "applications");
            format!("{sub} may still be in {applications}:\n\n{}\n\n{WHY_OPEN}\n", out.table(&by_application(open), &OPEN))
        }
    };
    if !sessions.is_empty() {
        let mut listed = sessions.to_vec();
        listed.iter_mut().for_each(in_words);
        told.push_str(&format!("\n{}\n", out.table(&listed, &LISTED)));
    }
    if sessions.iter().any(is_in_gap) {
        told.push_str(&format!("{}\n", until_closed(issuer)));
    }
    if !there.is_empty() {
        told.push_str(&by_client_sub(out, &sub, there));
    }
    told
}

/// Whom applications know by that name, in sessions of which nobody reported whose they are, or of somebody else.
fn by_client_sub(out: Output, sub: &str, there: &[Value]) -> String {
    format!(
        "\nWhoever these applications call {sub}, by a name of their own, may still be in there; where each has names of its own it can be somebody else:\n\n\
         {}\n\n{WHY_OPEN}\n",
        out.table(&by_application(there), &OPEN)
    )
}

/// Each application once for each reason, until the last of its times.
fn by_application(open: &[Value]) -> Vec<Value> {
    let mut latest: BTreeMap<(&str, &str), Option<&str>> = BTreeMap::new();
    for open in open {
        let text = |name: &str| open.get(name).and_then(Value::as_str);
        let until = latest.entry((text("client_id").unwrap_or("-"), text("why").unwrap_or("-"))).or_default();
        // Instants of the server's are all written alike, so the greater text is the later one.
        *until = (*until).max(text("until"));
    }
    latest.into_iter().map(|((client, why), until)| json!({ "client_id": client, "why": why, "until": until })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_told_once_for_each_reason() {
        let open = |client: &str, why: &str, until: Option<&str>| json!({"client_id": client, "why": why, "until": until});
        let (early, late) = ("2026-09-21T14:13:20.000Z", "2026-09-22T14:13:20.000Z");
        let rows = by_application(&[open("wiki", "live", Some(late)), open("mail", "live", None), open("wiki", "live", Some(early))]);
        let told: Vec<_> = rows.iter().map(|row| (row["client_id"].as_str(), row["until"].as_str())).collect();
        assert_eq!(told, [(Some("mail"), None), (Some("wiki"), Some(late))]);
    }
}
