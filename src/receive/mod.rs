//! The doors: each reads one kind of request into reports, a trigger or a word about deliveries, commits it, and answers.
//!
//! Owns the wire forms of what providers report, of what their logout tokens are posted in, of tokens that are given up, of what a logout names and of what operators say about deliveries. Never sends anything, never decides
//! what an end reaches and never keeps a token: what comes by value is digested while it is read, and sealed where it has to be shown again.
//!
//! Why a bulk call with one malformed item is refused as a whole: its sender is broken, and would take the status of the call for success. An item that
//! is well-formed and merely contradicts what is stored is refused by itself; its neighbours stand.

pub mod access_tokens;
pub mod bulk;
pub mod deliveries;
pub mod idempotency;
pub mod logout_token;
pub mod logouts;
pub mod prefer;
pub mod reconcile;
pub mod refresh_tokens;
pub mod reports;
pub mod revocation;
pub mod rotation;
pub mod sessions;
pub mod target;
pub mod token;

use crate::http::Routes;

/// The routes of this room.
pub fn routes() -> Routes {
    use utoipa_axum::routes;
    Routes::new()
        .add(routes!(sessions::put_session))
        .add(routes!(sessions::post_sessions))
        .add(routes!(reconcile::reconcile_sessions))
        .add(routes!(sessions::delete_participant))
        .add(routes!(reports::post_reports))
        .add(routes!(refresh_tokens::post_refresh_tokens))
        .add(routes!(rotation::rotate_refresh_token))
        .add(routes!(access_tokens::post_access_tokens))
        .add(routes!(logouts::post_logout))
        .add(routes!(logouts::undo_logout))
        .add(routes!(logout_token::post_logout_token))
        .add(routes!(revocation::revoke))
        .add(routes!(deliveries::replay_deliveries))
        .add(routes!(deliveries::retry_delivery))
        .add(routes!(deliveries::cancel_delivery))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_schema_that_is_referred_to_is_described() {
        let document = serde_json::to_value(super::routes().document()).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }

    #[test]
    fn the_bound_on_what_a_call_tells_of_is_described_where_it_holds() {
        assert_eq!(crate::model::report::CALL_PARTS_MAX, 5_000);
        let document = serde_json::to_value(super::routes().document()).unwrap();
        let described = |path: &str, method: &str| {
            let told = document["paths"][path][method]["responses"]["413"]["description"].as_str();
            told.is_some_and(|told| told.contains("too-many-items") && told.contains("5,000 participants, aliases and tokens"))
        };
        assert!(described("/v1/issuers/{iss}/sessions/{sid}", "put"));
        assert!(described("/v1/issuers/{iss}/sessions", "post"));
        assert!(described("/v1/issuers/{iss}/reports", "post"));
    }
}
