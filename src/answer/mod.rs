//! The windows: replies that only read.
//!
//! Owns what the world may see of issuers (metadata and keys), of the server itself (health, metrics, its description) and what callers may see of
//! sessions and logouts, as they stand or as they go on. Never writes.

pub mod access;
pub mod check;
pub mod deliveries;
pub mod health;
pub mod inquiry;
pub mod introspection;
pub mod jwks;
pub mod metadata;
pub mod progress;
pub mod receipts;
pub mod sessions;
pub mod signed_receipts;
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
        .merge(signed_receipts::routes())
        .merge(deliveries::routes())
        .merge(progress::routes())
        .merge(introspection::routes())
        .merge(check::routes())
}

#[cfg(test)]
mod tests {
    use crate::http::router::tests::flaws;

    #[test]
    fn the_windows_are_described_without_flaws() {
        assert_eq!(flaws(&super::routes().document()), Vec::<String>::new());
    }
}
