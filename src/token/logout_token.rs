//! The logout token (BCL 2.4): which claims it carries, in which form, and how it becomes a compact JWS.

use std::time::Duration;

use serde::Serialize;

use super::{SigningKey, TokenError};
use crate::model::client::{Claims, TokenTyp};
use crate::model::{ClientId, Issuer, Sid, Subject, Timestamp};

/// The longest life of a logout token: at most two minutes (BCL 4).
pub const LIFETIME_MAX: Duration = Duration::from_mins(2);

/// `iat` is dated back by this much. Some relying parties allow no clock skew at all and refuse a token from their own future; dating it a second
/// back harms nowhere.
pub const IAT_BACKDATED_BY: Duration = Duration::from_secs(1);

/// Whom a logout token is about: at least one of `sub` and `sid` (BCL 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// Every session of the subject at that client.
    Sub(&'a Subject),
    /// One session.
    Sid(&'a Sid),
    /// One session, and whose it is.
    Both(&'a Subject, &'a Sid),
}

/// Neither `sub` nor `sid` is left to name anybody by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither the sub nor the sid this client wants is known")]
pub struct Nameless;

impl<'a> Named<'a> {
    /// What is known, as far as the client wants it. A client that wants `sid` alone never gets a `sub` in its place: a token without `sid` ends
    /// every session of the subject (BCL 2.4).
    pub fn choose(claims: Claims, sub: Option<&'a Subject>, sid: Option<&'a Sid>) -> Result<Self, Nameless> {
        match (claims, sub, sid) {
            (Claims::Both, Some(sub), Some(sid)) => Ok(Self::Both(sub, sid)),
            (Claims::Both | Claims::Sid, _, Some(sid)) => Ok(Self::Sid(sid)),
            (Claims::Both | Claims::Sub, Some(sub), _) => Ok(Self::Sub(sub)),
            (Claims::Both, None, None) | (Claims::Sid, _, None) | (Claims::Sub, None, _) => Err(Nameless),
        }
    }
}

/// All that one logout token says. Made anew for every attempt.
#[derive(Clone, Copy, Debug)]
pub struct LogoutToken<'a> {
    /// Becomes `iss`, to the letter.
    pub issuer: &'a Issuer,
    /// Becomes `aud`: one client, a single string.
    pub audience: &'a ClientId,
    /// Becomes `sub` and `sid`, as that client saw them.
    pub named: Named<'a>,
    /// Becomes `jti`: unique, and never used for a second token.
    pub jti: &'a str,
    /// Becomes `iat`, dated back by [`IAT_BACKDATED_BY`], and the start of `exp`.
    pub issued_at: Timestamp,
    /// How long after `issued_at` the token expires; cut to [`LIFETIME_MAX`].
    pub lifetime: Duration,
    /// Becomes `toe`, the time of the event (RFC 8417 2.2).
    pub occurred_at: Timestamp,
    /// Becomes the header's `typ`.
    pub typ: TokenTyp,
}

impl LogoutToken<'_> {
    /// The token as a compact JWS. RSA keeps a core busy for half a millisecond: see [`SigningKey::cost`].
    pub fn sign(&self, key: &SigningKey) -> Result<String, TokenError> {
        let payload = serde_json::to_vec(&self.claims()).map_err(|_| TokenError::NotSigned)?;
        key.sign_jws(self.typ, &payload)
    }

    fn claims(&self) -> ClaimsSet<'_> {
        let (sub, sid) = match self.named {
            Named::Sub(sub) => (Some(sub.as_str()), None),
            Named::Sid(sid) => (None, Some(sid.as_str())),
            Named::Both(sub, sid) => (Some(sub.as_str()), Some(sid.as_str())),
        };
        ClaimsSet {
            iss: self.issuer.as_str(),
            sub,
            aud: self.audience.as_str(),
            iat: self.issued_at.minus(IAT_BACKDATED_BY).seconds(),
            exp: self.issued_at.plus(self.lifetime.min(LIFETIME_MAX)).seconds(),
            jti: self.jti,
            events: Events { logout: Empty {} },
            sid,
            toe: self.occurred_at.seconds(),
        }
    }
}

/// The claims in the order they are written. There is no `nonce` here, so that none can ever be sent (BCL 2.4).
#[derive(Serialize)]
struct ClaimsSet<'a> {
    iss: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: &'a str,
    events: Events,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    toe: i64,
}

#[derive(Serialize)]
struct Events {
    #[serde(rename = "http://schemas.openid.net/event/backchannel-logout")]
    logout: Empty,
}

#[derive(Serialize)]
struct Empty {}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::key::SigningAlg;
    use crate::token::keys::tests::key_pair;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_700);

    struct Given {
        issuer: Issuer,
        audience: ClientId,
        sub: Subject,
        sid: Sid,
    }

    impl Given {
        fn new() -> Self {
            Self {
                issuer: Issuer::parse("https://op.example/t1/").unwrap(),
                audience: ClientId::parse("shop").unwrap(),
                sub: Subject::parse("alice").unwrap(),
                sid: Sid::parse("s-1").unwrap(),
            }
        }

        fn token(&self) -> LogoutToken<'_> {
            LogoutToken {
                issuer: &self.issuer,
                audience: &self.audience,
                named: Named::Both(&self.sub, &self.sid),
                jti: "jti-1",
                issued_at: NOW,
                lifetime: LIFETIME_MAX,
                occurred_at: NOW.minus(Duration::from_mins(1)),
                typ: TokenTyp::LogoutJwt,
            }
        }
    }

    /// Verifies with another implementation, which learns the key from the published JWK alone.
    fn verified(token: &str, alg: SigningAlg) -> (Value, Value) {
        let (public_jwk, _) = key_pair(alg);
        let jwk: Jwk = serde_json::from_str(public_jwk).unwrap();
        let algorithm: Algorithm = alg.as_str().parse().unwrap();
        let mut rules = Validation::new(algorithm);
        rules.validate_exp = false;
        rules.set_audience(&["shop"]);
        rules.set_issuer(&["https://op.example/t1/"]);
        let claims = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).unwrap().claims;
        (header_of(token), claims)
    }

    fn header_of(token: &str) -> Value {
        use base64::Engine as _;
        let header = token.split('.').next().unwrap();
        serde_json::from_slice(&super::super::BASE64URL.decode(header).unwrap()).unwrap()
    }

    #[test]
    fn every_algorithm_signs_a_token_that_another_implementation_verifies_and_its_header_says_no_more_than_it_must() {
        let given = Given::new();
        for alg in SigningAlg::ALL {
            let (public_jwk, key) = key_pair(*alg);
            let (header, claims) = verified(&given.token().sign(key).unwrap(), *alg);
            let published: Value = serde_json::from_str(public_jwk).unwrap();
            assert_eq!(header, json!({ "alg": alg.as_str(), "typ": "logout+jwt", "kid": published["kid"] }), "{alg}");
            assert_eq!(claims["jti"], "jti-1", "{alg}");
        }
    }

    #[test]
    fn a_token_carries_exactly_the_claims_of_the_standard() {
        let given = Given::new();
        let (_, claims) = verified(&given.token().sign(&key_pair(SigningAlg::Es256).1).unwrap(), SigningAlg::Es256);
        let expected = json!({
            "iss": "https://op.example/t1/",
            "sub": "alice",
            "aud": "shop",
            "iat": 1_789_999_999,
            "exp": 1_790_000_120,
            "jti": "jti-1",
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
            "sid": "s-1",
            "toe": 1_789_999_940,
        });
        assert_eq!(claims, expected);
    }

    #[test]
    fn a_signature_has_the_fixed_length_of_its_algorithm() {
        use base64::Engine as _;
        let given = Given::new();
        let lengths: BTreeMap<&str, usize> = SigningAlg::ALL
            .iter()
            .map(|alg| {
                let token = given.token().sign(&key_pair(*alg).1).unwrap();
                (alg.as_str(), super::super::BASE64URL.decode(token.rsplit('.').next().unwrap()).unwrap().len())
            })
            .collect();
        let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|alg| (alg, 256));
        let expected = rsa.into_iter().chain([("ES256", 64), ("ES384", 96), ("EdDSA", 64)]).collect();
        assert_eq!(lengths, expected);
    }

    #[test]
    fn the_typ_is_what_the_client_registered_or_absent() {
        let given = Given::new();
        let typ_of =
            |typ| header_of(&LogoutToken { typ, ..given.token() }.sign(&key_pair(SigningAlg::EdDsa).1).unwrap()).get("typ").cloned();
        assert_eq!(typ_of(TokenTyp::LogoutJwt), Some(json!("logout+jwt")));
        assert_eq!(typ_of(TokenTyp::Jwt), Some(json!("JWT")));
        assert_eq!(typ_of(TokenTyp::None), None);
    }

    #[test]
    fn a_name_the_client_does_not_want_is_absent_rather_than_null() {
        let given = Given::new();
        let members = |named| {
            let claims = serde_json::to_value(LogoutToken { named, ..given.token() }.claims()).unwrap();
            (claims.get("sub").cloned(), claims.get("sid").cloned())
        };
        assert_eq!(members(Named::Sub(&given.sub)), (Some(json!("alice")), None));
        assert_eq!(members(Named::Sid(&given.sid)), (None, Some(json!("s-1"))));
    }

    #[test]
    fn a_client_that_wants_the_sid_alone_is_never_told_to_end_every_session_instead() {
        let Given { sub, sid, .. } = &Given::new();
        let choose = Named::choose;
        assert_eq!(choose(Claims::Sid, Some(sub), None), Err(Nameless));
        assert_eq!(choose(Claims::Sub, None, Some(sid)), Err(Nameless));
        assert_eq!(choose(Claims::Both, None, None), Err(Nameless));
        assert_eq!(choose(Claims::Sid, Some(sub), Some(sid)), Ok(Named::Sid(sid)));
        assert_eq!(choose(Claims::Sub, Some(sub), Some(sid)), Ok(Named::Sub(sub)));
        assert_eq!(choose(Claims::Both, Some(sub), Some(sid)), Ok(Named::Both(sub, sid)));
        assert_eq!(choose(Claims::Both, Some(sub), None), Ok(Named::Sub(sub)));
        assert_eq!(choose(Claims::Both, None, Some(sid)), Ok(Named::Sid(sid)));
    }

    #[test]
    fn no_token_lives_longer_than_two_minutes() {
        let given = Given::new();
        let exp = |secs| LogoutToken { lifetime: Duration::from_secs(secs), ..given.token() }.claims().exp - NOW.seconds();
        assert_eq!((exp(30), exp(120), exp(3600)), (30, 120, 120));
    }

    proptest! {
        #[test]
        fn any_sub_sid_client_and_jti_arrive_to_the_letter(
            sub in "\\PC{1,60}", sid in "[ -~]{1,255}", audience in "[ -~]{1,60}", jti in "[ -~]{1,60}",
        ) {
            let given = Given {
                audience: ClientId::parse(audience).unwrap(),
                sub: Subject::parse(sub).unwrap(),
                sid: Sid::parse(sid).unwrap(),
                ..Given::new()
            };
            let token = LogoutToken { jti: &jti, ..given.token() }.sign(&key_pair(SigningAlg::EdDsa).1).unwrap();
            let claims: Value = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims;
            prop_assert_eq!(&claims["sub"], given.sub.as_str());
            prop_assert_eq!(&claims["sid"], given.sid.as_str());
            prop_assert_eq!(&claims["aud"], given.audience.as_str());
            prop_assert_eq!(&claims["jti"], &jti);
            let urlsafe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            prop_assert!(token.chars().all(urlsafe), "needs no percent-encoding in a form body");
        }

        #[test]
        fn iat_is_never_ahead_of_the_clock_and_exp_never_behind_it(millis in 1_000_i64..250_000_000_000_000) {
            let given = Given::new();
            let claims = LogoutToken { issued_at: Timestamp::from_millis(millis), ..given.token() };
            let claims = claims.claims();
            prop_assert!(claims.iat * 1000 < millis && millis - claims.iat * 1000 < 2_000);
            prop_assert!(claims.exp * 1000 > millis && claims.exp * 1000 <= millis + 120_000);
        }
    }

    #[test]
    fn each_token_carries_the_jti_it_was_given() {
        let given = Given::new();
        let key = &key_pair(SigningAlg::Es384).1;
        let seen: HashSet<String> = (0..20)
            .map(|n| {
                let jti = format!("jti-{n}");
                let token = LogoutToken { jti: &jti, ..given.token() }.sign(key).unwrap();
                verified(&token, SigningAlg::Es384).1["jti"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(seen, (0..20).map(|n| format!("jti-{n}")).collect());
    }
}
