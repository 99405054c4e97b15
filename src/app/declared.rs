//! What the configuration declares, given to the register, and what is wrong with it, given back with its place.

use std::error::Error as StdError;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::{egress_config, egress_mode, sealing_key, store_settings, telemetry, tls};
use crate::config::{self, Config, Declaration as Said, DeclaredIssuer, Mistake, Mistakes, Registered, members_beside, nearest};
use crate::egress::{BadUrl, Egress, Names};
use crate::http::AppState;
use crate::observe::Chain;
use crate::registry::Judge;
use crate::registry::declared::{self, Declaration, Fault, Flaw, Refused};
use crate::seams::{Clock, Entropy};
use crate::store::Store;
use crate::token::SealingKey;

/// Why what is declared is not registered.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    /// It cannot be.
    #[error(transparent)]
    Mistakes(Mistakes),
    /// Something failed meanwhile.
    #[error("what the configuration declares could not be registered")]
    Failed(#[source] Arc<dyn StdError + Send + Sync>),
}

/// Settings by which declarations are judged: while one of them is wrong, only their form can be.
const JUDGES: [&str; 4] = ["dev", "network.", "delivery.", "egress."];
/// Those by which it is judged what may be called.
const GUARDS: [&str; 3] = ["dev", "network.", "egress."];

/// Adds what a start would find wrong before it opens the database: with where that is, with the file of the sealing key, with the certificate, with what
/// is called from here, and with what is declared.
pub fn examine(config: &Config, mistakes: &mut Mistakes) {
    mistakes
        .0
        .extend(Store::foreseen(&store_settings(config)).err().map(|error| config.mistake("database.url", Chain(&error).to_string())));
    mistakes.0.extend(sealing_key::flaw(&config.sealing_key).map(|why| config.mistake("sealing_key", why)));
    let certificate = config.http.tls.as_ref().map_or(Ok(()), |files| tls::read(files, Clock::system().now()).map(drop));
    mistakes.0.extend(certificate.err().map(|error| config.mistake(error.setting(), Chain(&error).to_string())));
    // A way out that cannot be built is told of by whoever needs it.
    let Ok(egress) = Egress::new(egress_config(config, Names::System)) else { return };
    if !GUARDS.iter().any(|path| mistakes.concern(path)) {
        let bad = telemetry::bad_urls(config, &egress);
        mistakes.0.extend(bad.into_iter().map(|(setting, bad)| config.mistake(setting, why_not_called(&bad))));
    }
    let declared = found_in_declarations(config, &egress, mistakes);
    mistakes.0.extend(declared);
}

fn found_in_declarations(config: &Config, egress: &Egress, mistakes: &mut Mistakes) -> Vec<Mistake> {
    let declarations = declarations(config);
    let placed = |found: Vec<Fault>| found.into_iter().filter_map(|fault| placed(config, fault)).collect();
    let judges_wrong = |mistake: &&mut Mistake| mistake.settings.iter().any(|(name, _)| JUDGES.iter().any(|judge| name.starts_with(judge)));
    if let Some(first) = mistakes.0.iter_mut().find(judges_wrong) {
        if !declarations.is_empty() {
            first.why.push_str("; until this is right, only the form of what is declared was looked at");
        }
        return placed(declared::faults_of_form(&declarations));
    }
    let entropy = Entropy::os();
    let judge = Judge {
        egress,
        mode: egress_mode(config.mode),
        // Nothing that is sealed here is kept.
        sealing: &SealingKey::generate(&entropy),
        entropy: &entropy,
        defaults: &config.delivery.defaults,
        timeout_max: config.delivery.timeout_max,
    };
    placed(declared::faults(&declarations, judge, Clock::system().now()))
}

/// What is wrong with a URL of ours, and the setting that lets it be called, if any does.
fn why_not_called(bad: &BadUrl) -> String {
    match bad.exception() {
        Some(network) => format!("{bad}: what is called from here must be named in network.allow, such as \"{network}\""),
        None => bad.to_string(),
    }
}

/// Registers what is declared, and releases what is not any more.
pub(super) async fn establish(config: &Config, app: &AppState) -> Result<(), DeclaredError> {
    declared::establish(app, &declarations(config)).await.map_err(|refused| match refused {
        Refused::Faults(found) => DeclaredError::Mistakes(Mistakes(found.into_iter().filter_map(|fault| placed(config, fault)).collect())),
        Refused::Failed(cause) => DeclaredError::Failed(cause),
    })
}

fn declarations(config: &Config) -> Vec<Declaration<'_>> {
    config.declared.iter().map(declaration).collect()
}

fn declaration(issuer: &DeclaredIssuer) -> Declaration<'_> {
    Declaration { issuer: &issuer.registration.body, clients: issuer.clients.iter().map(|client| &client.body).collect() }
}

fn placed(config: &Config, fault: Fault) -> Option<Mistake> {
    let issuer = config.declared.get(fault.issuer)?;
    let said: &Said = match fault.client {
        None => &issuer.registration,
        Some(client) => issuer.clients.get(client)?,
    };
    Some(match fault.flaw {
        Flaw::Unknown => said.mistake(&fault.pointer, why_unknown(&fault)),
        Flaw::Wrong(why) => said.mistake(&fault.pointer, why),
    })
}

fn why_unknown(fault: &Fault) -> String {
    /// Made once, however many mistakes there are.
    static SCHEMA: LazyLock<Value> = LazyLock::new(configuration_schema);
    let of = if fault.client.is_some() { Registered::Client } else { Registered::Issuer };
    let name = fault.pointer.rsplit('/').next().unwrap_or_default();
    match nearest(name, members_beside(&SCHEMA, of, &fault.pointer)) {
        Some(meant) => format!("is not a member of a registration: did you mean {meant}?"),
        None => "is not a member of a registration".to_owned(),
    }
}

/// The JSON Schema of the configuration file.
pub fn configuration_schema() -> Value {
    let document = serde_json::to_value(super::routes().document()).unwrap_or_default();
    config::schema(document.pointer("/components/schemas").unwrap_or(&Value::Null))
}
