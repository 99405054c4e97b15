//! The administration desk: issuers, clients, keys, API tokens, and the trail of what was done to them.
//!
//! Owns registration: what may be registered, its bounds and its wire forms, what holds a client and how its lane stands, how a provider is
//! told, and what makes tokens inactive by order: cut-offs, the denylist, new secrets of subjects, and the gaps
//! of what a restored database cannot know. Sends nothing but the one token
//! a test is made of, which is about nobody, and never decides what a logout does. Every change is one call of the store, which writes the change, the
//! keys it needs and one audit record in one transaction. No secret enters the audit trail, and none is shown again.

pub mod api_tokens;
pub mod audit;
pub mod clients;
pub mod cut_offs;
pub mod denylist;
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

use serde::Serialize;
use serde_json::Value;

use crate::egress::BadNetwork;
use crate::http::{Code, Problem, Routes};
use crate::model::IssuerId;
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::client::Network;
use crate::store::{AuditEntry, Change};

/// Every route of the desk.
pub fn routes() -> Routes {
    let registered = Routes::new().merge(issuers::routes()).merge(clients::routes()).merge(keys::routes());
    let registered = registered.merge(import::routes()).merge(key_check::routes()).merge(reseal::routes());
    let registered = registered.merge(api_tokens::routes()).merge(audit::routes()).merge(lanes::routes()).merge(trial::routes());
    registered.merge(cut_offs::routes()).merge(gaps::routes()).merge(denylist::routes()).merge(subject_secrets::routes())
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
    let detail = serde_json::to_string(detail).map_err(Problem::internal)?;
    Ok(AuditEntry { act, caller: caller.clone(), actor: None, issuer: issuer.cloned(), event: None, detail })
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
