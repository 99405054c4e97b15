//! The windows: replies that only read.
//!
//! Owns what the world may see of issuers (metadata and keys), of the server itself (health, metrics, its description) and what callers may see of
//! sessions and logouts. Never writes.

pub mod deliveries;
pub mod health;
pub mod introspection;
pub mod jwks;
pub mod metadata;
pub mod receipts;
pub mod sessions;
pub mod subjects;

use crate::http::Routes;

/// Every window.
pub fn routes() -> Routes {
    Routes::new()
        .merge(metadata::routes())
        .merge(jwks::routes())
        .merge(health::routes())
        .merge(sessions::routes())
        .merge(subjects::routes())
        .merge(receipts::routes())
        .merge(deliveries::routes())
        .merge(introspection::routes())
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
}
