//! `logoutd keys …`

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{ask, post, server};
use super::{Error, Variables, print};
use crate::model::IssuerId;
use crate::model::key::SigningAlg;

const AFTER_HELP: &str = "Asks the server at LOGOUTD_URL (http://127.0.0.1:8080) with the token in LOGOUTD_TOKEN.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show an issuer's signing keys
    #[command(after_help = AFTER_HELP)]
    List(At),
    /// Make successors of the keys that sign
    #[command(after_help = AFTER_HELP)]
    Rotate(RotateArgs),
    /// Import the provider's own signing key
    #[command(after_help = AFTER_HELP)]
    Import(ImportArgs),
    /// Say whether relying parties find the keys; status 1 when one that signs is not found
    #[command(after_help = AFTER_HELP)]
    Check(At),
    /// Seal every secret with the current sealing key
    #[command(after_help = AFTER_HELP)]
    Reseal(ResealArgs),
}

#[derive(Debug, Args)]
pub(super) struct At {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    at: At,
    /// The algorithm; every one with a key made here unless said
    #[arg(long, value_parser = SigningAlg::parse)]
    alg: Option<SigningAlg>,
    /// The key may be known to others: replace it now. Relying parties refuse tokens until they fetch the keys again
    #[arg(long)]
    at_once: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    at: At,
    /// A file with a private key in PEM, a JWK or a JWK Set; - for standard input
    file: PathBuf,
    /// The algorithm, where the key does not say it
    #[arg(long, value_parser = SigningAlg::parse)]
    alg: Option<SigningAlg>,
    /// The name the provider gave the key
    #[arg(long)]
    kid: Option<String>,
    /// Take it although the provider does not publish it yet
    #[arg(long)]
    not_published_yet: bool,
}

#[derive(Debug, Args)]
pub(super) struct ResealArgs {
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command, variables: &Variables) -> Result<(), Error> {
    let (url, token) = server(variables)?;
    let path = |at: &At, rest: &str| format!("{url}/v1/issuers/{}/keys{rest}", at.issuer);
    match command {
        Command::List(at) => table(&ask(Method::GET, &path(&at, "?limit=1000"), token, None).await?, "items", &LISTED, at.json),
        Command::Rotate(RotateArgs { at, alg, at_once }) => {
            let mut body = Map::from_iter([("at_once".to_owned(), json!(at_once))]);
            body.extend(alg.map(|alg| ("alg".to_owned(), json!(alg.as_str()))));
            table(&post(&path(&at, "/rotate"), token, &Value::Object(body)).await?, "keys", &LISTED, at.json)
        }
        Command::Import(args) => {
            let body = import_body(&args, &content(&args.file)?)?;
            table(&post(&path(&args.at, "/import"), token, &body).await?, "keys", &LISTED, args.at.json)
        }
        Command::Check(at) => {
            let answer = ask(Method::POST, &path(&at, "/check"), token, None).await?;
            table(&answer, "keys", &CHECKED, at.json)?;
            match (answer.get("good").and_then(Value::as_bool), answer.get("away").and_then(Value::as_str)) {
                (Some(true), _) => Ok(()),
                (Some(false), away) => {
                    Err(Error::NotFound { why: away.unwrap_or("a key that signs is not where they look for it").to_owned() })
                }
                (None, _) => Err(Error::Misunderstood),
            }
        }
        Command::Reseal(ResealArgs { json }) => {
            let answer = ask(Method::POST, &format!("{url}/v1/keys/reseal"), token, None).await?;
            let number = |name: &str| answer.get(name).and_then(Value::as_u64).ok_or(Error::Misunderstood);
            let (resealed, left) = (number("resealed")?, number("left")?);
            match json {
                true => print(&Value::Object(answer).to_string())?,
                false => print(&format!("{resealed} secrets were sealed anew, {left} are left"))?,
            }
            if left == 0 { Ok(()) } else { Err(Error::Left { left }) }
        }
    }
}

/// The largest file with keys, in octets.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn content(file: &std::path::Path) -> Result<zeroize::Zeroizing<String>, Error> {
    let mut text = zeroize::Zeroizing::new(String::new());
    let read = |reader: Box<dyn std::io::Read>, text: &mut String| reader.take(FILE_BYTES_MAX).read_to_string(text);
    let opened: std::io::Result<Box<dyn std::io::Read>> = match file.to_str() {
        Some("-") => Ok(Box::new(std::io::stdin())),
        _ => std::fs::File::open(file).map(|file| Box::new(file) as _),
    };
    opened.and_then(|reader| read(reader, &mut text)).map_err(|source| Error::File { path: file.to_owned(), source })?;
    Ok(text)
}

/// What begins with a brace is JSON, and a set if it has keys.
fn import_body(args: &ImportArgs, text: &str) -> Result<Value, Error> {
    let mut body = Map::from_iter([("not_published_yet".to_owned(), json!(args.not_published_yet))]);
    let key = match text.trim_start().starts_with('{') {
        true => serde_json::from_str::<Value>(text).map_err(|_| Error::Misuse { why: "the file is neither PEM nor JSON" })?,
        false => json!(text),
    };
    let member = match &key {
        Value::Object(members) if members.contains_key("keys") => "jwks",
        Value::Object(_) => "jwk",
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => "pem",
    };
    body.insert(member.to_owned(), key);
    body.extend(args.alg.map(|alg| ("alg".to_owned(), json!(alg.as_str()))));
    body.extend(args.kid.as_ref().map(|kid| ("kid".to_owned(), json!(kid))));
    Ok(Value::Object(body))
}

const LISTED: [&str; 8] = ["kid", "alg", "state", "origin", "published_kid", "active_from", "successor_at", "withdrawn_from"];
const CHECKED: [&str; 7] = ["kid", "alg", "state", "found", "found_as", "since", "trouble"];

/// Prints the items as columns, or the whole answer as it is.
fn table(answer: &Map<String, Value>, items: &str, columns: &[&str], json: bool) -> Result<(), Error> {
    if json {
        return print(&Value::Object(answer.clone()).to_string());
    }
    let rows = answer.get(items).and_then(Value::as_array).ok_or(Error::Misunderstood)?;
    let mut lines = vec![columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(row.get(column))).collect()));
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    lines.iter().try_for_each(|line| {
        let padded: Vec<_> = line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        print(padded.join("  ").trim_end())
    })
}

/// Control characters removed, since it goes to a terminal.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.chars().filter(|c| !c.is_control()).collect(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(other @ (Value::Number(_) | Value::Array(_) | Value::Object(_))) => other.to_string(),
    }
}
