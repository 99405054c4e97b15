//! `logoutd keys …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::consent::consent;
use super::output::{Column, Output, count, text, time};
use super::plain::plain;
use super::server::{Answer, Listing, body, content, route};
use super::{Desk, Error};
use crate::model::IssuerId;
use crate::model::key::SigningAlg;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show an issuer's signing keys
    List(At),
    /// Make successors of the keys that sign
    Rotate(RotateArgs),
    /// Import the provider's own signing key
    Import(ImportArgs),
    /// Publish a key no more and destroy its private half; or drop a key of the provider's from the set published here, and believe nothing it signed
    #[command(visible_alias = "delete")]
    Drop(DropArgs),
    /// Say whether relying parties find the keys; status 1 when one that signs is not found
    Check(At),
    /// Seal every secret with the current sealing key
    Reseal,
}

#[derive(Debug, Args)]
pub(super) struct At {
    /// The issuer's short id
    #[arg(value_parser = |text: &str| IssuerId::parse(text))]
    issuer: IssuerId,
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
pub(super) struct DropArgs {
    #[command(flatten)]
    at: At,
    /// The key's name, as `keys list` shows it, or as the provider publishes it. One that signs is refused: rotate first
    // Names made here are thumbprints, and one in 64 begins like an option.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
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
    #[arg(long, allow_hyphen_values = true)]
    kid: Option<String>,
    /// Take it although the provider does not publish it yet
    #[arg(long)]
    not_published_yet: bool,
}

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    let path = |issuer: &IssuerId, rest: &[&str]| route(&[&["issuers", issuer.as_str(), "keys"], rest].concat());
    match command {
        Command::List(At { issuer }) => out.list(&server.list(&path(&issuer, &[])?, Listing::All, LIST_MAX).await?, &LISTED),
        Command::Rotate(RotateArgs { at, alg, at_once }) => {
            let body = body([("at_once", Some(json!(at_once))), ("alg", alg.map(|alg| json!(alg.as_str())))]);
            made(*out, &server.post(&path(&at.issuer, &["rotate"])?, &body).await?)
        }
        Command::Import(args) => {
            let body = import_body(&args, &content(&args.file)?)?;
            made(*out, &server.post(&path(&args.at.issuer, &["import"])?, &body).await?)
        }
        Command::Drop(DropArgs { at: At { issuer }, kid, yes }) => {
            if !yes {
                consent(&format!("this drops the key {} for good: what it signed is refused", plain(&kid)), "yes")?;
            }
            out.answer(&server.delete(&path(&issuer, &[&kid])?).await?, |_| "dropped".to_owned())
        }
        Command::Check(At { issuer }) => {
            let answer = server.order(&path(&issuer, &["check"])?).await?;
            out.answer(&answer, |value| out.table(keys_of(value), &CHECKED))?;
            match (answer.value.get("good").and_then(Value::as_bool), answer.value.get("away").and_then(Value::as_str)) {
                (Some(true), _) => Ok(()),
                (Some(false), away) => {
                    Err(Error::NotFound { why: away.map_or_else(|| "a key that signs is not where they look for it".to_owned(), plain) })
                }
                (None, _) => Err(Error::Misunderstood),
            }
        }
        Command::Reseal => {
            let answer = server.order(&route(&["keys", "reseal"])?).await?;
            let number = |name: &str| answer.value.get(name).and_then(Value::as_u64).ok_or(Error::Misunderstood);
            let (resealed, left) = (number("resealed")?, number("left")?);
            out.answer(&answer, |_| {
                let sealed = count(resealed, "secret was sealed anew", "secrets were sealed anew");
                format!("{sealed}, {}", count(left, "is left", "are left"))
            })?;
            if left == 0 { Ok(()) } else { Err(Error::Left { left }) }
        }
    }
}

/// An issuer has a handful of keys.
const LIST_MAX: u32 = 1000;

fn made(out: Output, answer: &Answer) -> Result<(), Error> {
    out.answer(answer, |value| out.table(keys_of(value), &LISTED))
}

fn keys_of(value: &Value) -> impl Iterator<Item = &Value> {
    value.get("keys").and_then(Value::as_array).into_iter().flatten()
}

/// What begins with a brace is JSON, and a set if it has keys.
fn import_body(args: &ImportArgs, text: &str) -> Result<Value, Error> {
    let mut body = Map::from_iter([("not_published_yet".to_owned(), json!(args.not_published_yet))]);
    let key = match text.trim_start().starts_with('{') {
        true => serde_json::from_str::<Value>(text).map_err(|_| Error::misuse("the file is neither PEM nor JSON"))?,
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

const LISTED: [Column; 8] = [
    text("kid", "/kid"),
    text("alg", "/alg"),
    text("state", "/state"),
    text("origin", "/origin"),
    text("published kid", "/published_kid"),
    time("active from", "/active_from"),
    time("successor at", "/successor_at"),
    time("withdrawn from", "/withdrawn_from"),
];
const CHECKED: [Column; 7] = [
    text("kid", "/kid"),
    text("alg", "/alg"),
    text("state", "/state"),
    text("found", "/found"),
    text("found as", "/found_as"),
    time("since", "/since"),
    text("trouble", "/trouble"),
];
