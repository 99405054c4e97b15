//! `logoutd kill`: what would end is shown first, asked about where it is much, and posted so that no lost answer makes two logouts of one.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::consent::consent;
use super::output::{Form, to_the_second};
use super::receipt::{blast_radius, does_nothing, reach, told};
use super::registered::registered;
use super::server::{Answer, Listing, Server, body, route};
use super::target::{Breadth, Named, TargetArgs};
use super::watch::watch;
use super::when::When;
use super::words::{issuer_id, reasons};
use super::{Desk, Error};
use crate::model::{ClientId, IssuerId};
use crate::observe::Chain;
use crate::seams::{Clock, Entropy};

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct KillArgs {
    /// The issuer's short id; `logoutd issuer list` shows them
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    words: WordArgs,
    /// Only show what would end and who would be told; nothing is done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, however many it ends
    #[arg(long)]
    yes: bool,
    /// Follow it until everybody is told: status 0 when all confirmed, 1 when somebody was given up or cannot be told
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// Repeat a logout whose answer was lost: with the same key and the same words it is done once
    #[arg(long, value_name = "KEY", conflicts_with = "dry_run")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Why, and what else")]
struct WordArgs {
    /// Why; it decides what ends beside sessions
    #[arg(long, default_value = "admin", value_parser = reasons())]
    reason: String,
    /// Why, in your own words, for programs that read receipts
    #[arg(long, value_name = "TEXT")]
    reason_detail: Option<String>,
    /// A note for the people who read the receipt and the audit trail
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// On whose behalf: your name, where the token is not yours alone
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// A ticket or an incident it belongs to
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// When it happened, as 2026-11-22T14:00:00Z or as 15m for so long ago, at most 72 h back; who signed in later is spared
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    occurred_at: Option<When>,
    /// End offline access too, whatever the reason
    #[arg(long)]
    revoke_offline_access: bool,
    /// Tell the provider of what it ended itself, and ask it to end what --sid or --sub names where no session is known here; =false: do not tell it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tell_provider: Option<bool>,
}

const EXAMPLES: &str = "Examples:
  A laptop was stolen; end its sessions wherever they are, offline access too:
      logoutd kill main --device laptop-17 --reason compromise --note 'INC-42, stolen laptop' --watch
  Log one person out everywhere, but for the session they call from:
      logoutd kill main --sub alice --except-sid s-8f2a --reason password_changed
  See first what it would do:
      logoutd kill main --client wiki --dry-run
  Everybody but the people on call, from a script:
      logoutd kill main --everyone --except-sub carol --reason compromise --note 'INC-43' --yes --json

More than one session, or everybody's parts at an application: what would end is shown, and you are asked; a script says --yes. When an answer is lost the
same logout is posted again under the same key, so it is done once.

Environment: LOGOUTD_URL, LOGOUTD_TOKEN or LOGOUTD_TOKEN_FILE, LOGOUTD_CA_FILE, LOGOUTD_ALLOW_HTTP.
Exit status: 0 done (with --watch: everybody confirmed), 1 failed, 2 used wrongly or nobody there to ask.";

pub(super) async fn run(args: KillArgs, desk: &Desk) -> Result<(), Error> {
    let Desk { server, out } = desk;
    let named = args.target.named()?;
    let path = route(&["issuers", args.issuer.as_str(), "logouts"])?;
    let request = request(&args.words, &named, &Clock::system());
    for spared in args.target.spared() {
        registered(server, &args.issuer, spared).await?;
    }
    if let Some(client) = args.target.client() {
        known_there(server, &args.issuer, client, &path, &request).await?;
    }
    if args.dry_run {
        let rehearsed = rehearse(server, &path, &request).await?;
        out.answer(&rehearsed, |receipt| blast_radius(*out, receipt))?;
        tell_nobody(server, &rehearsed.value, "nobody would be logged out", &named, &args.issuer).await;
        return Ok(());
    }
    if !args.yes && named.breadth != Breadth::One {
        let rehearsed = rehearse(server, &path, &request).await?.value;
        ask_about(&rehearsed, named.breadth, || blast_radius(*out, &rehearsed))?;
    }
    let key = args.idempotency_key.unwrap_or_else(|| format!("cli-{}", Entropy::os().token()));
    let answer = post_surely(server, &path, &key, &request).await?;
    let id = answer.value.get("id").and_then(Value::as_str).ok_or(Error::Misunderstood)?;
    if answer.status == 200 {
        eprintln!("a logout was posted with this key before: this is it");
    }
    tell_nobody(server, &answer.value, "nobody was logged out", &named, &args.issuer).await;
    if named.breadth == Breadth::Many && args.words.note.is_none() && !does_nothing(&answer.value) {
        eprintln!("hint: --note says in the receipt and in the audit trail why so many were logged out");
    }
    match (args.watch, out.form) {
        (true, Form::Human) => watch(desk, &args.issuer, id).await,
        (true, Form::Json) => {
            out.answer(&answer, |_| String::new())?;
            watch(desk, &args.issuer, id).await
        }
        (false, _) => {
            out.answer(&answer, |receipt| told(*out, receipt))?;
            if answer.value.get("state").and_then(Value::as_str) != Some("settled") {
                eprintln!("it goes on by itself; follow it with: logoutd logout watch {} {}", args.issuer, super::plain::plain(id));
            }
            Ok(())
        }
    }
}

/// The logout as the API takes it; what was not said is left out.
fn request(words: &WordArgs, named: &Named, clock: &Clock) -> Value {
    let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
    body([
        ("target", Some(named.target.clone())),
        ("reason", Some(json!(words.reason))),
        ("reason_detail", text(&words.reason_detail)),
        ("note", text(&words.note)),
        ("actor", text(&words.actor)),
        ("correlation_id", text(&words.correlation_id)),
        ("occurred_at", words.occurred_at.map(|when| json!(when.ago(clock.now()).to_string()))),
        ("revoke_offline_access", words.revoke_offline_access.then_some(Value::Bool(true))),
        ("tell_provider", words.tell_provider.map(Value::Bool)),
    ])
}

/// Refuses a client that is not registered, unless people are still in there from before it was deleted.
async fn known_there(server: &Server, issuer: &IssuerId, client: &ClientId, path: &str, request: &Value) -> Result<(), Error> {
    match registered(server, issuer, client).await {
        Err(unknown @ Error::NoClient { .. }) if does_nothing(&rehearse(server, path, request).await?.value) => Err(unknown),
        Err(Error::NoClient { .. }) => Ok(()),
        other => other,
    }
}

/// Says that a logout met nobody: who misspelt a name must not take it for done, and who is out already is not misspelt.
async fn tell_nobody(server: &Server, receipt: &Value, what: &str, named: &Named, issuer: &IssuerId) {
    if !does_nothing(receipt) {
        return;
    }
    let name = named.in_words();
    match last_end(server, issuer, &named.target).await {
        Some(at) => eprintln!("{what}: no session of {name} lives at {issuer} any more; the last one ended at {}", to_the_second(&at)),
        None => eprintln!("{what}: no live session, token or part of {name} is known at {issuer}; is it spelt as it was reported?"),
    }
}

/// When the latest session of a person or of a name ended; none where none is known, or nobody may ask.
async fn last_end(server: &Server, issuer: &IssuerId, target: &Value) -> Option<String> {
    let members = target.as_object().filter(|members| members.len() == 1)?;
    let search = ["sub", "sid"].into_iter().find_map(|name| Some(json!({ name: members.get(name)? })))?;
    let path = route(&["issuers", issuer.as_str(), "sessions", "search"]).ok()?;
    let found = server.list(&path, Listing::Search(&search), 1).await.ok()?.value;
    found.pointer("/items/0/ended_at").and_then(Value::as_str).map(str::to_owned)
}

pub(super) async fn rehearse(server: &Server, path: &str, request: &Value) -> Result<Answer, Error> {
    let mut rehearsed = request.clone();
    if let Some(members) = rehearsed.as_object_mut() {
        members.insert("dry_run".to_owned(), Value::Bool(true));
    }
    server.post(path, &rehearsed).await
}

/// Asks the person at the terminal, unless it ends one session at most.
pub(super) fn ask_about(rehearsed: &Value, breadth: Breadth, shown: impl FnOnce() -> String) -> Result<(), Error> {
    let number = |name: &str| rehearsed.get(name).and_then(Value::as_u64).ok_or(Error::Misunderstood);
    let (sessions, participations) = (number("sessions_ended")?, number("participations_ended")?);
    if sessions <= 1 && breadth != Breadth::Many {
        return Ok(());
    }
    let word = if sessions > 0 { sessions } else { participations };
    let what = if std::io::stdin().is_terminal() { shown() } else { format!("this would {}", reach(rehearsed)) };
    consent(what.trim_end(), &word.to_string())
}

/// How long it waits before each repetition.
const PAUSES: [Duration; 4] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// The longest wait a server can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Posts a logout until its answer is in hand: what is repeated under one key is done once.
async fn post_surely(server: &Server, path: &str, key: &str, request: &Value) -> Result<Answer, Error> {
    let mut pauses = PAUSES.into_iter();
    let mut may_be_taken = false;
    loop {
        let error = match server.post_with(path, &[("Idempotency-Key", key)], request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Some(loss) = loss(&error) else { return Err(error) };
        may_be_taken |= loss.may_be_taken;
        match pauses.next() {
            Some(pause) => {
                let pause = loss.asked.map_or(pause, |asked| asked.clamp(pause, PAUSE_MAX));
                eprintln!("{}: posting it again in {} s under the same key, {key}", Chain(&error), pause.as_secs_f32());
                tokio::time::sleep(pause).await;
            }
            None if may_be_taken => return Err(Error::Unknown { key: key.to_owned(), source: Box::new(error) }),
            None => return Err(error),
        }
    }
}

/// An answer that is not in hand.
struct Loss {
    /// The server may have taken the logout.
    may_be_taken: bool,
    /// How long the server asks to wait.
    asked: Option<Duration>,
}

/// Whether the answer was lost, or was none.
fn loss(error: &Error) -> Option<Loss> {
    if let Error::Unreachable { source, .. } = error {
        return Some(Loss { may_be_taken: !source.is_connect(), asked: None });
    }
    // 502 and 504 are said by what stands in between.
    let Error::Refused(refusal) = error else { return None };
    matches!(refusal.status, 502..=504).then_some(Loss { may_be_taken: true, asked: refusal.retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rehearsed(sessions: u64, participations: u64) -> Value {
        json!({"sessions_ended": sessions, "participations_ended": participations})
    }

    #[test]
    fn one_session_of_one_person_ends_without_a_question() {
        for (sessions, participations) in [(0, 0), (1, 0), (0, 7)] {
            assert!(ask_about(&rehearsed(sessions, participations), Breadth::Some, String::new).is_ok());
        }
    }

    #[test]
    fn what_was_not_said_is_left_out_of_the_request() {
        use clap::Parser as _;
        let cli =
            super::super::Cli::try_parse_from(["logoutd", "kill", "main", "--sub", "alice", "--tell-provider", "--occurred-at", "15m"])
                .unwrap();
        let super::super::Command::Kill(lone) = cli.command else { panic!("kill is kill") };
        let args = lone.args;
        let clock = Clock::system();
        let mut request = request(&args.words, &args.target.named().unwrap(), &clock);
        let occurred = request.as_object_mut().unwrap().remove("occurred_at").unwrap();
        let occurred = crate::model::Timestamp::parse(occurred.as_str().unwrap()).unwrap();
        assert!(clock.now().since(occurred) >= Duration::from_secs(900));
        assert_eq!(request, json!({"target": {"sub": "alice"}, "reason": "admin", "tell_provider": true}));
    }
}
