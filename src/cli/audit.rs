//! `logoutd audit …` and `logoutd receipt …`: the trail and receipts, fetched and verified.
//!
//! Verifying takes nothing from the server but what is to be verified, and public keys where none are given: the arithmetic is `token::audit`'s.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::asking::Asking;
use super::output::{count, print, print_on};
use super::plain::{plain, plain_json};
use super::server::{Server, content, query, route};
use super::when::When;
use super::{Error, Variables};
use crate::model::{EventId, IssuerId, Timestamp};
use crate::seams::Clock;
use crate::token::JwkSet;
use crate::token::audit::{Broken, Line, Report, Trail, verify_receipt};

const VERIFY_HELP: &str = "Without FILE the trail is read from the server. Without --keys the server is asked for the keys too: that finds damage, and not a \
server that was\nreplaced as a whole. Keep the keys somewhere else, and a head now and then.\n\nExit status: 0 whole, 1 not whole or nothing to verify, 2 used wrongly.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether the trail is whole; status 1 when a record was changed, removed, put in or put elsewhere, and when there is none
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Print the trail as JSON lines, to be kept or verified elsewhere
    Export(ExportArgs),
    /// Print the public keys that sign the trail and receipts, as a JWK Set
    Keys,
    /// Print the signed head of the trail: kept elsewhere, it tells later whether the trail was cut
    Head,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// An exported trail; - for standard input
    file: Option<PathBuf>,
    /// A file with the trusted public keys, as `logoutd audit keys` prints them
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// A file with a head that was kept elsewhere, which the trail must lead to; may be given several times
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Of what was done at other issuers, only the digests
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: Option<IssuerId>,
    /// From the last head that was signed before this time on: 2026-11-22T14:00:00Z, or 3d for the last three days
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,
    /// Up to the first head that was signed at this time or later
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    until: Option<When>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ReceiptCommand {
    /// Print a logout's signed receipt
    Save(SaveArgs),
    /// Say whether a signed receipt is genuine, and what it says; status 1 when it is not
    Verify(VerifyReceiptArgs),
}

#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
    /// The logout
    #[arg(value_parser = |text: &str| EventId::parse(text).ok_or("must be the id of a logout"))]
    logout: EventId,
}

#[derive(Debug, Args)]
pub(super) struct VerifyReceiptArgs {
    /// A receipt as `logoutd receipt save` prints it; - for standard input
    file: PathBuf,
    /// A file with the trusted public keys, as `logoutd audit keys` prints them
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
}

pub(super) async fn run(command: Command, asking: &Asking, variables: &Variables) -> Result<(), Error> {
    let server = || Server::of(asking, variables);
    match command {
        Command::Verify(args) => verify(args, asking, variables).await,
        Command::Export(args) => {
            let mut pages = Pages::new(server()?, &args)?;
            while let Some(items) = pages.next().await? {
                items.iter().try_for_each(|item| print_on(&plain_json(&item.to_string())))?;
            }
            Ok(())
        }
        Command::Keys => print(&plain_json(&fetched_keys(&server()?).await?)),
        Command::Head => {
            let answer = server()?.get(&route(&["audit", "head"])?).await?;
            match (asking.json, answer.value.get("head").and_then(Value::as_str)) {
                (true, _) => print(&plain_json(&answer.text)),
                (false, Some(head)) => print(&plain(head)),
                (false, None) => Err(Error::NotWhole { why: "nothing is sealed yet: try again in a few seconds".to_owned() }),
            }
        }
    }
}

pub(super) async fn run_receipt(command: ReceiptCommand, asking: &Asking, variables: &Variables) -> Result<(), Error> {
    match command {
        ReceiptCommand::Save(SaveArgs { issuer, logout }) => {
            let path = route(&["issuers", issuer.as_str(), "logouts", logout.as_str(), "receipt.jws"])?;
            print(&plain(&Server::of(asking, variables)?.text(&path).await?))
        }
        ReceiptCommand::Verify(VerifyReceiptArgs { file, keys }) => {
            let (keys, receipt) = (read_keys(&content(&keys)?)?, content(&file)?);
            let (claims, kid) = verify_receipt(&receipt, &keys.keys).map_err(|misread| Error::NotWhole { why: misread.to_string() })?;
            match asking.json {
                true => print(&plain_json(&Value::Object(claims).to_string())),
                false => tell_receipt(&claims, &kid),
            }
        }
    }
}

async fn verify(args: VerifyArgs, asking: &Asking, variables: &Variables) -> Result<(), Error> {
    let server = || Server::of(asking, variables);
    let keys = match &args.keys {
        Some(file) => content(file)?.to_string(),
        None => fetched_keys(&server()?).await?,
    };
    let heads = args.head.iter().map(|file| content(file).map(|head| head.to_string())).collect::<Result<Vec<_>, _>>()?;
    let mut trail = Trail::new(&read_keys(&keys)?, &heads).map_err(not_whole)?;
    match &args.file {
        Some(file) => read_lines(file, &mut trail)?,
        None => {
            trail = trail.of_everything();
            let mut pages = Pages::new(server()?, &ExportArgs { issuer: None, since: None, until: None })?;
            while let Some(items) = pages.next().await? {
                for item in items {
                    let line: Line = serde_json::from_value(item).map_err(|_| Error::Misunderstood)?;
                    trail.take(line).map_err(not_whole)?;
                }
            }
        }
    }
    let report = trail.end().map_err(not_whole)?;
    if let Some(why) = nothing_in(&report) {
        return Err(Error::NotWhole { why });
    }
    match asking.json {
        true => print(&as_json(&report).to_string()),
        false => tell(&report),
    }
}

/// Why a trail in which nothing is wrong says nothing: an export that broke off before it began looks like that.
fn nothing_in(report: &Report) -> Option<String> {
    let is_empty = report.verified == 0 && report.purged_to.is_none();
    match (&report.head, report.unsealed) {
        (Some(_), _) if !is_empty => None,
        (_, 0) => Some("there is nothing to verify: it holds no record that a signed head covers".to_owned()),
        (_, unsealed) => {
            let waiting = count(unsealed, "record in it is", "records in it are");
            Some(format!("there is nothing to verify: the {waiting} not sealed yet, which takes a few seconds"))
        }
    }
}

fn not_whole(broken: Broken) -> Error {
    Error::NotWhole { why: broken.to_string() }
}

/// The longest line of an exported trail, in octets.
const LINE_BYTES_MAX: u64 = 1 << 20;

fn read_lines(file: &Path, trail: &mut Trail) -> Result<(), Error> {
    let failed = |source| Error::File { path: file.to_owned(), source };
    let mut reader: BufReader<Box<dyn Read>> = BufReader::new(opened(file)?);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).map_err(failed)? == 0 {
            return Ok(());
        }
        if !line.trim().is_empty() {
            trail.read(&line).map_err(not_whole)?;
        }
    }
}

fn opened(file: &Path) -> Result<Box<dyn Read>, Error> {
    match file.to_str() {
        Some("-") => Ok(Box::new(std::io::stdin())),
        _ => std::fs::File::open(file).map(|file| Box::new(file) as _).map_err(|source| Error::File { path: file.to_owned(), source }),
    }
}

fn read_keys(text: &str) -> Result<JwkSet, Error> {
    JwkSet::parse(text).map_err(|_| Error::misuse("the keys must be a JWK Set, as `logoutd audit keys` prints it"))
}

async fn fetched_keys(server: &Server) -> Result<String, Error> {
    server.text(&route(&["audit", "keys"])?).await
}

/// The pages of an export, one by one.
struct Pages {
    server: Server,
    path: String,
    after: Next,
}

enum Next {
    First,
    After(String),
    None,
}

impl Pages {
    fn new(server: Server, args: &ExportArgs) -> Result<Self, Error> {
        let now = Clock::system().now();
        let instant = |when: When| when.ago(now).to_string();
        let asked = [
            ("limit", Some("500".to_owned())),
            ("issuer", args.issuer.as_ref().map(IssuerId::to_string)),
            ("since", args.since.map(instant)),
            ("until", args.until.map(instant)),
        ];
        Ok(Self { server, path: query(route(&["audit", "export"])?, asked), after: Next::First })
    }

    async fn next(&mut self) -> Result<Option<Vec<Value>>, Error> {
        let after = match &self.after {
            Next::First => None,
            Next::After(after) => Some(after.clone()),
            Next::None => return Ok(None),
        };
        let mut answer = self.server.get(&query(self.path.clone(), [("after", after)])).await?.value;
        self.after = match answer.get("next") {
            Some(Value::String(next)) => Next::After(next.clone()),
            Some(Value::Null) => Next::None,
            _ => return Err(Error::Misunderstood),
        };
        match answer.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(Some(items)),
            _ => Err(Error::Misunderstood),
        }
    }
}

fn as_json(report: &Report) -> Value {
    let head = report.head.as_ref();
    json!({
        "whole": true,
        "verified": report.verified,
        "withheld": report.withheld,
        "erased_values": report.erased,
        "purged_to": report.purged_to,
        "purged_until": report.purged_until.map(|until| until.to_string()),
        "began_after": report.began_after,
        "goes_on": report.goes_on,
        "head": head.map(|head| json!({"seq": head.tip.seq, "chain": head.tip.chain.to_string(), "at": head.at.to_string(), "kid": head.kid})),
        "unsealed": report.unsealed,
        "unsealed_since": report.unsealed_since.map(|at| at.to_string()),
    })
}

fn tell(report: &Report) -> Result<(), Error> {
    print(&format!("the trail is whole: {} verified", count(report.verified, "record", "records")))?;
    if let Some(head) = &report.head {
        print(&format!("  signed head: record {} at {}, key {}", head.tip.seq, head.at, head.kid))?;
    }
    if let (Some(gone), Some(until)) = (report.purged_to, report.purged_until) {
        print(&format!("  records up to {gone}, sealed until {until}, are no longer kept, behind a signed checkpoint"))?;
    }
    if let Some(start) = report.began_after {
        print(&format!("  it was asked for from record {} on: nothing is said of what was before", start + 1))?;
    }
    if report.goes_on {
        print("  it was asked for up to here: nothing is said of what comes after")?;
    }
    if report.withheld > 0 {
        print(&format!("  of {} only the digests were there", count(report.withheld, "record", "records")))?;
    }
    if report.erased > 0 {
        print(&format!("  {} erased, as sealed records tell", count(report.erased, "value was", "values were")))?;
    }
    match (report.unsealed, report.unsealed_since) {
        (0, _) => print("  no record waits to be sealed"),
        (unsealed, since) => {
            let since = since.map_or_else(String::new, |since| format!(", since {since}"));
            let waiting = count(unsealed, "record waits", "records wait");
            print(&format!("  {waiting} to be sealed{since}: nothing vouches for what is not sealed"))
        }
    }
}

fn tell_receipt(claims: &Map<String, Value>, kid: &str) -> Result<(), Error> {
    let claims = Value::Object(claims.clone());
    let says = |pointer: &str| match claims.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => plain(text),
        Some(other) => plain_json(&other.to_string()),
    };
    let at = claims.pointer("/iat").and_then(Value::as_i64).map_or_else(|| "-".to_owned(), |at| Timestamp::from_seconds(at).to_string());
    print(&format!("genuine: signed by {} at {at}, key {kid}", says("/iss")))?;
    print(&format!("  logout {} at {}: {}", says("/receipt/id"), says("/issuer"), says("/receipt/target")))?;
    print(&format!("  because {}, by {}, at {}", says("/receipt/reason"), says("/receipt/actor"), says("/receipt/occurred_at")))?;
    let number = |pointer: &str| claims.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    print(&format!("  {}: {} ended", says("/receipt/state"), count(number("/receipt/sessions_ended"), "session", "sessions")))?;
    let counts = ["delivered", "pending", "rejected", "expired", "superseded", "cancelled", "unreachable"];
    let counts: Vec<_> = counts.iter().map(|state| format!("{} {state}", says(&format!("/receipt/deliveries/{state}")))).collect();
    print(&format!("  {} told of: {}", says("/receipt/deliveries/total"), counts.join(", ")))?;
    if claims.pointer("/truncated").is_some_and(|truncated| !truncated.is_null()) {
        print(&format!("  {} of {} deliveries listed in it", says("/truncated/listed"), says("/truncated/total")))?;
    }
    print(&format!("  the audit trail had {}", count(number("/audit/seq"), "sealed record", "sealed records")))
}
