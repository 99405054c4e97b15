//! `logoutd issuer …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::asking::Bound;
use super::client::put_told;
use super::output::{Column, text, time};
use super::server::{Listing, object_in, route};
use super::words::issuer_id;
use super::{Desk, Error};
use crate::model::IssuerId;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register an issuer, or change one that is registered: what the file leaves out stays
    Put(PutArgs),
    /// List the issuers
    List(Bound),
    /// Show how an issuer is registered
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// A file with a JSON object as the API takes it, its id among the members; - for standard input
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The issuer's short id
    #[arg(value_parser = issuer_id)]
    issuer: IssuerId,
}

const LISTED: [Column; 7] = [
    text("id", "/id"),
    text("issuer", "/issuer"),
    text("declared", "/declared"),
    text("signing algs", "/signing_algs"),
    text("expiry", "/expiry"),
    text("provider logout", "/provider_logout/preset"),
    time("created", "/created_at"),
];

const SHOWN: [Column; 19] = [
    text("id", "/id"),
    text("issuer", "/issuer"),
    text("declared", "/declared"),
    text("signing algs", "/signing_algs"),
    text("keys published", "/published_at"),
    text("discovery", "/discovery"),
    text("provider's keys", "/provider_jwks_uri"),
    text("expiry", "/expiry"),
    text("session max age", "/session_max_age"),
    text("upstream", "/upstream/mode"),
    text("relay token", "/upstream/relay_token"),
    text("provider logout", "/provider_logout/preset"),
    text("revocation", "/revocation/url"),
    text("upstream questions", "/introspect_upstream/url"),
    text("subject secrets", "/subject_secrets"),
    text("networks", "/allow_networks"),
    text("access token typ", "/access_token_typ"),
    time("created", "/created_at"),
    time("updated", "/updated_at"),
];

pub(super) async fn run(command: Command, Desk { server, out }: &Desk) -> Result<(), Error> {
    match command {
        Command::Put(PutArgs { file }) => {
            let body = object_in(&file)?;
            let id = body.get("id").and_then(Value::as_str).ok_or_else(|| Error::misuse("the file must say the issuer's id"))?;
            let path = route(&["issuers", id])?;
            let body = Value::Object(body.clone());
            let answer = match server.get(&path).await {
                Ok(_) => server.patch(&path, &body).await?,
                Err(Error::Refused(refusal)) if refusal.code == "unknown-issuer" => server.post("/v1/issuers", &body).await?,
                Err(error) => return Err(error),
            };
            put_told(*out, &answer, &SHOWN)
        }
        Command::List(bound) => out.list(&server.list("/v1/issuers", Listing::All, bound.limit).await?, &LISTED),
        Command::Show(ShowArgs { issuer }) => out.facts(&server.get(&route(&["issuers", issuer.as_str()])?).await?, &SHOWN),
    }
}
