//! The administration desk: issuers, clients, keys, API tokens, and the trail of what was done to them.
//!
//! Owns registration: what may be registered, its bounds and its wire forms, what holds a client and how its lane stands, how a provider is
//! told, and what makes tokens inactive by order: cut-offs, the denylist, new secrets of subjects, and the gaps
//! of what a restored database cannot know. What the configuration declares is registered by the same functions, and then changed there alone. Sends nothing but the one token
//! a test is made of, which is about nobody, and never decides what a logout does. Every change is one call of the store, which writes the change, the
//! keys it needs and one audit record in one transaction. No secret enters the audit trail, and none is shown again.

pub mod alarms;
pub mod api_tokens;
pub mod audit;
pub mod audit_export;
pub mod audit_keys;
pub mod clients;
pub mod cut_offs;
pub mod declared;
pub mod denylist;
pub mod erasure;
pub mod gaps;
pub mod import;
pub mod issuers;
pub mod key_check;
pub mod keys;
pub mod lanes;
mod private;
pub mod provider_logout;
pub mod reseal;
pub mod subject_secrets;
pub mod token_policy;
pub mod token_terms;
pub mod trial;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::egress::{BadNetwork, Egress, Mode};
use crate::http::{AppState, Code, Problem, Routes};
use crate::model::IssuerId;
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::client::{DeliverySettings, Network};
use crate::model::issuer::ManagedBy;
use crate::seams::Entropy;
use crate::store::{AuditEntry, Change};
use crate::token::{Sealed, SealingKey};

/// Every route of the desk.
pub fn routes() -> Routes {
    let registered = Routes::new().merge(issuers::routes()).merge(clients::routes()).merge(keys::routes());
    let registered = registered.merge(import::routes()).merge(key_check::routes()).merge(reseal::routes());
    let registered = registered
        .merge(api_tokens::routes())
        .merge(alarms::routes())
        .merge(audit::routes())
        .merge(audit_export::routes())
        .merge(audit_keys::routes())
        .merge(lanes::routes())
        .merge(trial::routes());
    registered
        .merge(cut_offs::routes())
        .merge(gaps::routes())
        .merge(denylist::routes())
        .merge(subject_secrets::routes())
        .merge(erasure::routes())
}

/// What registrations are judged by, whether a request asks for them or the configuration declares them.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Which addresses may be reached.
    pub egress: &'a Egress,
    /// Whether `http` is fine.
    pub mode: Mode,
    /// What secrets are sealed with.
    pub sealing: &'a SealingKey,
    /// Chance, for sealing.
    pub entropy: &'a Entropy,
    /// What a client gets that leaves its own settings out.
    pub defaults: &'a DeliverySettings,
    /// The longest time-out that may be asked for.
    pub timeout_max: Duration,
}

impl<'a> Judge<'a> {
    fn of(app: &'a AppState) -> Self {
        let (defaults, timeout_max) = (&app.settings.delivery_defaults, app.settings.delivery_timeout_max);
        Self { egress: &app.egress, mode: app.settings.mode, sealing: &app.sealing, entropy: &app.entropy, defaults, timeout_max }
    }

    /// Puts the old seal in the place of a new one that holds the same secret.
    fn keep_seal(&self, place: &Sealed<'_>, new: &mut Option<String>, old: Option<&String>) {
        let opened = |sealed: &str| self.sealing.open_text(place, sealed).ok();
        if let (Some(fresh), Some(old)) = (new.as_deref(), old)
            && opened(fresh).is_some_and(|secret| opened(old) == Some(secret))
        {
            *new = Some(old.clone());
        }
    }
}

/// Whether what is declared had to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    /// It stood so before.
    Before,
    /// It is new, or has changed.
    Anew,
}

/// Refuses a change by the API of what the configuration declares.
fn editable(managed_by: ManagedBy) -> Result<(), Problem> {
    match managed_by {
        ManagedBy::Api => Ok(()),
        ManagedBy::Configuration => Err(declared_elsewhere()),
    }
}

fn declared_elsewhere() -> Problem {
    let why = "it is declared under [[issuers]] in the server's configuration file: change it there and start the server anew, or take it out \
               there, and the next start leaves it to the API";
    Problem::new(Code::Declared, why)
}

/// What a change that happened did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Created,
    Replaced,
}

/// Sorts the store's answer into what happened and why it did not.
fn done(change: Change, absent: Code, conflict: impl FnOnce() -> Problem) -> Result<Done, Problem> {
    match change {
        Change::Created => Ok(Done::Created),
        Change::Replaced => Ok(Done::Replaced),
        Change::Stale => Err(Problem::of(Code::VersionMismatch)),
        Change::Absent => Err(Problem::of(absent)),
        Change::InUse => Err(Problem::new(Code::InUse, "sessions live, deliveries are pending or grants are good; end them first")),
        Change::Conflict => Err(conflict()),
    }
}

/// One audit record of the desk. What goes into `detail` is public or a name.
fn entry(act: Act, caller: &Caller, issuer: Option<&IssuerId>, detail: &impl Serialize) -> Result<AuditEntry, Problem> {
    let detail = serde_json::to_value(detail).map_err(Problem::internal)?;
    Ok(AuditEntry { issuer: issuer.cloned(), ..AuditEntry::of(act, caller, detail) })
}

/// Blames the right one of the two members a network is made of.
fn bad_network(under: &str, bad: BadNetwork) -> Problem {
    let member = match bad {
        BadNetwork::TooMany | BadNetwork::OutsideCeiling(_) => "allow_networks",
        BadNetwork::CaTooLong | BadNetwork::CaMalformed => "ca_pem",
    };
    Problem::invalid(format!("{under}/{member}"), bad)
}

/// What the audit trail keeps of a network: the certificates by their presence alone.
fn told(network: &Network) -> Value {
    let allow: Vec<String> = network.allow.iter().map(ToString::to_string).collect();
    serde_json::json!({ "allow_networks": allow, "own_ca": network.ca_pem.is_some() })
}

#[cfg(test)]
mod tests {
    use crate::http::router::tests::flaws;

    #[test]
    fn the_desk_is_described_without_flaws() {
        let document = super::routes().document();
        assert_eq!(flaws(&document), Vec::<String>::new());
    }
}
