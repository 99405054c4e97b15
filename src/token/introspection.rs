//! Signed answers to introspections (RFC 9701 5).
//!
//! Owns their claims. There is neither a `sub` nor an `exp` beside the answer itself, so that nobody takes one for an access token or an ID token.

use serde::Serialize;

use super::{SigningKey, TokenError};
use crate::model::{Issuer, Timestamp};

/// An answer to one caller.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IntrospectionResponse<'a, T> {
    /// Becomes `iss`, to the letter.
    #[serde(serialize_with = "to_the_letter")]
    pub iss: &'a Issuer,
    /// Who asked.
    pub aud: &'a str,
    /// When it was answered.
    #[serde(serialize_with = "in_seconds")]
    pub iat: Timestamp,
    /// The answer as it would be without a signature (RFC 7662 2.2).
    pub token_introspection: &'a T,
}

impl<T: Serialize> IntrospectionResponse<'_, T> {
    /// The answer as a compact JWS. RSA keeps a core busy for half a millisecond: see [`SigningKey::cost`].
    pub fn sign(&self, key: &SigningKey) -> Result<String, TokenError> {
        key.sign_introspection(&serde_json::to_vec(self).map_err(|_| TokenError::NotSigned)?)
    }
}

fn to_the_letter<S: serde::Serializer>(issuer: &Issuer, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(issuer.as_str())
}

fn in_seconds<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(at.seconds())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::{Value, json};

    use super::*;
    use crate::model::key::SigningAlg;
    use crate::token::BASE64URL;
    use crate::token::keys::tests::key_pair;

    #[test]
    fn a_signed_answer_has_the_shape_of_the_standard_and_another_implementation_verifies_it() {
        let issuer = Issuer::parse("https://op.example/t1").unwrap();
        let body = json!({"active": false});
        let answer = IntrospectionResponse { iss: &issuer, aud: "gateway", iat: Timestamp::from_seconds(9), token_introspection: &body };
        let (public_jwk, key) = key_pair(SigningAlg::Es256);
        let token = answer.sign(key).unwrap();
        let jwk: Jwk = serde_json::from_str(public_jwk).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_required_spec_claims(&["aud", "iss"]);
        rules.set_audience(&["gateway"]);
        let claims = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).unwrap().claims;
        let expected = json!({"iss": "https://op.example/t1", "aud": "gateway", "iat": 9, "token_introspection": {"active": false}});
        assert_eq!(claims, expected);
        let header: Value = serde_json::from_slice(&BASE64URL.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
        assert_eq!(header["typ"], "token-introspection+jwt");
    }
}
