//! What a provider's answer means when it is asked to revoke a refresh token (RFC 7009).

use serde::Deserialize;

use super::outcome;
use crate::model::attempt::{Outcome, OutcomeClass};

/// How often a refusal that says nothing is asked again before it is believed: it may be somebody's deploy.
const REFUSALS_CONFIRMED: u8 = 2;

/// What an answer means, and how often a refusal is asked again before it is believed.
///
/// A token the provider does not know is answered like one it revoked (RFC 7009 2.2), and 503 says that it is to be asked again (2.2.1). Whoever is told
/// that its client is wrong has a setting to change; a refusal about the token, or about its kind, is for good.
pub fn classify(outcome: &Outcome, body: Option<&str>) -> (OutcomeClass, u8) {
    let usual = outcome::classify(outcome, &[]);
    match (usual, error(body).as_deref()) {
        // RFC 6749 5.2, which RFC 7009 2.2.1 refers to.
        (OutcomeClass::Refused, Some("invalid_client" | "unauthorized_client")) => (OutcomeClass::ConfigFault, 0),
        (OutcomeClass::Refused, Some("unsupported_token_type" | "invalid_grant" | "invalid_token")) => (OutcomeClass::Refused, 0),
        // RFC 6749 4.1.2.1: where the status of 503 cannot be had, the error says it.
        (OutcomeClass::Refused, Some("temporarily_unavailable" | "server_error")) => (OutcomeClass::Recoverable, 0),
        (OutcomeClass::Refused, Some(_) | None) => (OutcomeClass::Refused, REFUSALS_CONFIRMED),
        (
            OutcomeClass::Delivered
            | OutcomeClass::DeliveredOddly
            | OutcomeClass::ConfigFault
            | OutcomeClass::Redirected
            | OutcomeClass::Gone
            | OutcomeClass::Recoverable
            | OutcomeClass::Blocked
            | OutcomeClass::Ours,
            _,
        ) => (usual, 0),
    }
}

fn error(body: Option<&str>) -> Option<String> {
    #[derive(Deserialize)]
    struct OauthError {
        error: String,
    }
    body.and_then(|body| serde_json::from_str::<OauthError>(body).ok()).map(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, body: &str) -> (OutcomeClass, u8) {
        classify(&Outcome::Answered { status, retry_after: None }, Some(body))
    }

    #[test]
    fn each_answer_a_provider_may_give_has_its_meaning() {
        for (status, body, meaning) in [
            (200, "", (OutcomeClass::Delivered, 0)),
            (200, r#"{"error":"invalid_client"}"#, (OutcomeClass::Delivered, 0)),
            (202, "", (OutcomeClass::DeliveredOddly, 0)),
            (400, r#"{"error":"unsupported_token_type"}"#, (OutcomeClass::Refused, 0)),
            (400, r#"{"error":"invalid_grant"}"#, (OutcomeClass::Refused, 0)),
            (400, r#"{"error":"invalid_client"}"#, (OutcomeClass::ConfigFault, 0)),
            (400, r#"{"error":"unauthorized_client"}"#, (OutcomeClass::ConfigFault, 0)),
            (400, r#"{"error":"temporarily_unavailable"}"#, (OutcomeClass::Recoverable, 0)),
            (400, r#"{"error":"invalid_request"}"#, (OutcomeClass::Refused, 2)),
            (400, "not JSON", (OutcomeClass::Refused, 2)),
            (401, r#"{"error":"invalid_client"}"#, (OutcomeClass::ConfigFault, 0)),
            (404, "", (OutcomeClass::ConfigFault, 0)),
            (503, "", (OutcomeClass::Recoverable, 0)),
            (302, "", (OutcomeClass::Redirected, 0)),
        ] {
            assert_eq!(class(status, body), meaning, "{status} {body}");
        }
    }
}
