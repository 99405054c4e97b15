//! The security event that tells a provider of a session's end: a SET (RFC 8417) in the profile of the Shared Signals Framework.
//!
//! It says the same however often it is sent (RFC 8935 2), so all of it comes from what was committed and nothing from the attempt.

use serde::Serialize;

use super::{SigningKey, TokenError};
use crate::model::{DeliveryId, EventId, Issuer, ProviderKey, Sid, Subject, Timestamp};

/// The end of one session (CAEP 3.1).
#[derive(Clone, Copy, Debug)]
pub struct SessionRevoked<'a> {
    /// Becomes `iss`, to the letter.
    pub issuer: &'a Issuer,
    /// Becomes `aud`.
    pub audience: &'a str,
    /// Becomes `jti`: one for each delivery, whatever the number of its attempts.
    pub delivery: &'a DeliveryId,
    /// Becomes `txn`: what links all that has one cause (RFC 8417 2.2).
    pub event: &'a EventId,
    /// Becomes `iat`: when the delivery was written.
    pub created_at: Timestamp,
    /// When the session ended.
    pub occurred_at: Timestamp,
    /// Whose it was.
    pub sub: Option<&'a Subject>,
    /// Its `sid`, or else the provider's key of it.
    pub sid: Option<&'a Sid>,
    /// The provider's key of it.
    pub key: Option<&'a ProviderKey>,
    /// Who set it off (CAEP 2).
    pub initiator: &'a str,
    /// Why, in English, for an administrator.
    pub explanation: &'a str,
}

impl SessionRevoked<'_> {
    /// The event as a compact JWS.
    pub fn sign(&self, key: &SigningKey) -> Result<String, TokenError> {
        key.sign_event(&serde_json::to_vec(&self.claims()).map_err(|_| TokenError::NotSigned)?)
    }

    fn claims(&self) -> ClaimsSet<'_> {
        let session = self.sid.map(Sid::as_str).or(self.key.map(ProviderKey::as_str));
        ClaimsSet {
            iss: self.issuer.as_str(),
            aud: self.audience,
            iat: self.created_at.seconds(),
            jti: self.delivery.as_str(),
            txn: self.event.as_str(),
            sub_id: Complex {
                format: "complex",
                user: self.sub.map(|sub| User { format: "iss_sub", iss: self.issuer.as_str(), sub: sub.as_str() }),
                session: session.map(|id| Opaque { format: "opaque", id }),
            },
            events: Events {
                revoked: Revoked {
                    event_timestamp: self.occurred_at.seconds(),
                    initiating_entity: self.initiator,
                    reason_admin: English { en: self.explanation },
                },
            },
        }
    }
}

/// There is no `sub` and no `exp` here, so that none can ever be sent and nobody takes it for an ID token (SSF 4.1.2, 4.1.7).
#[derive(Serialize)]
struct ClaimsSet<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    jti: &'a str,
    txn: &'a str,
    sub_id: Complex<'a>,
    events: Events<'a>,
}

/// A member that is left out stands for every one (SSF 3.3).
#[derive(Serialize)]
struct Complex<'a> {
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Opaque<'a>>,
}

#[derive(Serialize)]
struct User<'a> {
    format: &'static str,
    iss: &'a str,
    sub: &'a str,
}

#[derive(Serialize)]
struct Opaque<'a> {
    format: &'static str,
    id: &'a str,
}

#[derive(Serialize)]
struct Events<'a> {
    #[serde(rename = "https://schemas.openid.net/secevent/caep/event-type/session-revoked")]
    revoked: Revoked<'a>,
}

#[derive(Serialize)]
struct Revoked<'a> {
    event_timestamp: i64,
    initiating_entity: &'a str,
    reason_admin: English<'a>,
}

#[derive(Serialize)]
struct English<'a> {
    en: &'a str,
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::{Value, json};

    use super::*;
    use crate::model::key::SigningAlg;
    use crate::seams::Entropy;
    use crate::token::keys::tests::key_pair;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_700);

    #[test]
    fn an_event_has_the_shape_of_the_profile_and_another_implementation_verifies_it() {
        let entropy = Entropy::seeded(7);
        let (issuer, sub, sid) =
            (Issuer::parse("https://op.example/t1").unwrap(), Subject::parse("alice").unwrap(), Sid::parse("s-1").unwrap());
        let (delivery, event): (DeliveryId, EventId) = (entropy.id(NOW), entropy.id(NOW));
        let revoked = SessionRevoked {
            issuer: &issuer,
            audience: "id",
            delivery: &delivery,
            event: &event,
            created_at: NOW,
            occurred_at: Timestamp::from_seconds(1_789_999_900),
            sub: Some(&sub),
            sid: Some(&sid),
            key: None,
            initiator: "admin",
            explanation: "An administrator ended the session.",
        };
        let (public_jwk, key) = key_pair(SigningAlg::Rs256);
        let token = revoked.sign(key).unwrap();
        assert_eq!(token, revoked.sign(key).unwrap(), "the same octets each time");
        let jwk: Jwk = serde_json::from_str(public_jwk).unwrap();
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_required_spec_claims(&["aud", "iss"]);
        rules.set_audience(&["id"]);
        rules.set_issuer(&["https://op.example/t1"]);
        let claims = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).unwrap().claims;
        let expected = json!({
            "iss": "https://op.example/t1", "aud": "id", "iat": 1_790_000_000, "jti": delivery.as_str(), "txn": event.as_str(),
            "sub_id": {
                "format": "complex",
                "user": {"format": "iss_sub", "iss": "https://op.example/t1", "sub": "alice"},
                "session": {"format": "opaque", "id": "s-1"},
            },
            "events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {
                "event_timestamp": 1_789_999_900, "initiating_entity": "admin",
                "reason_admin": {"en": "An administrator ended the session."},
            }},
        });
        assert_eq!(claims, expected);
        let header: Value = serde_json::from_slice(&super::super::BASE64URL.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
        assert_eq!((&header["typ"], &header["alg"]), (&json!("secevent+jwt"), &json!("RS256")));
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let entropy = Entropy::seeded(7);
        let (issuer, key) = (Issuer::parse("https://op.example").unwrap(), ProviderKey::parse("k-1").unwrap());
        let (delivery, event): (DeliveryId, EventId) = (entropy.id(NOW), entropy.id(NOW));
        let revoked = SessionRevoked {
            issuer: &issuer,
            audience: "id",
            delivery: &delivery,
            event: &event,
            created_at: NOW,
            occurred_at: NOW,
            sub: None,
            sid: None,
            key: Some(&key),
            initiator: "user",
            explanation: "x",
        };
        let claims = serde_json::to_value(revoked.claims()).unwrap();
        assert_eq!(claims["sub_id"], json!({"format": "complex", "session": {"format": "opaque", "id": "k-1"}}));
    }
}
