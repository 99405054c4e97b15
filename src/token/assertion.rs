//! Assertions by which clients say who they are: `private_key_jwt` (OpenID Connect Core 9, RFC 7523 2.2).
//!
//! Owns the rules of RFC 7523 3. The key, the algorithm and the issuer come from what was registered; an assertion only says who claims to be asking, and
//! which of that client's keys to try. That one is good only once is for the caller to see to, with [`Proof`] in hand. Never asks for the time and never
//! fetches anything.

use std::time::Duration;

use serde_json::{Map, Value};

use super::jwks::PublicJwk;
use super::jws::{Flaw, Jws, Unsigned, numeric_date};
use crate::model::key::{SigningAlg, words};
use crate::model::{ClientId, Issuer, Jti, Timestamp};

/// The `client_assertion_type` of all of them (RFC 7523 2.2).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How far a client's clock may differ from ours.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// How far ahead `exp` may be: as long must a `jti` be remembered.
pub const AHEAD_MAX: Duration = Duration::from_mins(10);

words! {
    /// Why an assertion proves nothing. For the log alone: whoever showed it is told that it is not a client.
    AssertionRefused, "a refusal of an assertion" {
        /// Not a compact JWS of JSON objects that name no member twice, encrypted, or with a `crit` header.
        Malformed = "malformed",
        /// It says that it is something else.
        Type = "type",
        /// Not signed with what was registered, or with nothing.
        Algorithm = "algorithm",
        /// The key it names is not one of its client's.
        UnknownKey = "unknown_key",
        /// No key of its client made the signature.
        Signature = "signature",
        /// `iss` and `sub` are not one and the same client.
        Client = "client",
        /// For somebody else, or for somebody else too.
        Audience = "audience",
        /// Expired, not valid yet, without an expiry, or with one too far ahead.
        Time = "time",
        /// Without an identifier of its own.
        Jti = "jti",
    }
}

impl std::error::Error for AssertionRefused {}

impl From<Flaw> for AssertionRefused {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed | Flaw::Encrypted | Flaw::Critical => Self::Malformed,
            Flaw::Type => Self::Type,
        }
    }
}

impl From<Unsigned> for AssertionRefused {
    fn from(unsigned: Unsigned) -> Self {
        match unsigned {
            Unsigned::UnknownKey => Self::UnknownKey,
            Unsigned::Signature => Self::Signature,
        }
    }
}

/// An assertion taken apart, of which nothing is verified but its form.
#[derive(Clone, Debug)]
pub struct Assertion {
    token: Jws,
    alg: SigningAlg,
    client_id: ClientId,
}

impl Assertion {
    /// Takes it apart.
    pub fn read(text: &str) -> Result<Self, AssertionRefused> {
        let token = Jws::read(text)?;
        // RFC 8725 3.11: what says that it is of another kind is not one; what says nothing may be.
        match token.typ.as_deref() {
            None | Some("jwt" | "client-authentication+jwt") => {}
            Some(_) => return Err(AssertionRefused::Type),
        }
        // RFC 8725 3.1 and 3.2: never `none`, never a secret taken for a key.
        let alg = SigningAlg::parse(&token.alg).map_err(|_| AssertionRefused::Algorithm)?;
        let client_id = client(&token.claims)?;
        Ok(Self { token, alg, client_id })
    }

    /// Who it says is asking, unverified: fit to look up what that client registered.
    pub const fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The key it names, unverified: fit to look for that key.
    pub fn kid(&self) -> Option<&str> {
        self.token.kid.as_deref()
    }
}

/// What an assertion is held against.
#[derive(Clone, Copy, Debug)]
pub struct AssertionRules<'a> {
    /// Whom it must be for.
    pub issuer: &'a Issuer,
    /// What it must be signed with, if its client registered that; else what each of its keys is for.
    pub alg: Option<SigningAlg>,
    /// The present instant.
    pub now: Timestamp,
}

/// An assertion that holds in every respect but that it may have been shown before. Only [`prove`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    jti: Jti,
    until: Timestamp,
}

impl Proof {
    /// Its identifier: good once.
    pub const fn jti(&self) -> &Jti {
        &self.jti
    }

    /// Until when it would be taken again: as long must its `jti` be remembered.
    pub const fn until(&self) -> Timestamp {
        self.until
    }
}

/// Holds an assertion against the rules.
pub fn prove(assertion: &Assertion, keys: &[PublicJwk], rules: &AssertionRules<'_>) -> Result<Proof, AssertionRefused> {
    if rules.alg.is_some_and(|alg| alg != assertion.alg) {
        return Err(AssertionRefused::Algorithm);
    }
    assertion.token.check_signature(keys, assertion.alg)?;
    let claims = &assertion.token.claims;
    check_audience(claims, rules.issuer)?;
    // What identifies a person or ends a session is signed for something else.
    if claims.contains_key("nonce") || claims.contains_key("events") {
        return Err(AssertionRefused::Type);
    }
    let until = expiry(claims, rules.now)?;
    let jti = claims.get("jti").and_then(Value::as_str).and_then(|jti| Jti::parse(jti).ok()).ok_or(AssertionRefused::Jti)?;
    Ok(Proof { jti, until })
}

/// RFC 7523 3 (1) and (2.B), Core 9: both are the client.
fn client(claims: &Map<String, Value>) -> Result<ClientId, AssertionRefused> {
    let name = |claim| claims.get(claim).and_then(Value::as_str);
    match (name("iss"), name("sub")) {
        (Some(iss), Some(sub)) if iss == sub => ClientId::parse(iss).map_err(|_| AssertionRefused::Client),
        (Some(_) | None, _) => Err(AssertionRefused::Client),
    }
}

/// RFC 7523 3 (3), and no more than the issuer itself: an assertion that is good at two servers can be shown to one by the other.
fn check_audience(claims: &Map<String, Value>, issuer: &Issuer) -> Result<(), AssertionRefused> {
    let only = match claims.get("aud") {
        Some(Value::String(only)) => Some(only),
        Some(Value::Array(all)) => match all.as_slice() {
            [Value::String(only)] => Some(only),
            _ => None,
        },
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => None,
    };
    if only.is_some_and(|only| only == issuer.as_str()) { Ok(()) } else { Err(AssertionRefused::Audience) }
}

/// RFC 7523 3 (4), (5) and (6).
fn expiry(claims: &Map<String, Value>, now: Timestamp) -> Result<Timestamp, AssertionRefused> {
    let exp = numeric_date(claims.get("exp")).ok_or(AssertionRefused::Time)?;
    let until = exp.plus(SKEW_MAX);
    let has_begun = |claim| match claims.get(claim) {
        None => true,
        at @ Some(_) => numeric_date(at).is_some_and(|at| at <= now.plus(SKEW_MAX)),
    };
    let in_time = now < until && exp <= now.plus(AHEAD_MAX).plus(SKEW_MAX);
    if in_time && has_begun("nbf") && has_begun("iat") { Ok(until) } else { Err(AssertionRefused::Time) }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use base64::Engine as _;
    use jsonwebtoken::{Algorithm, EncodingKey};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::token::BASE64URL;
    use crate::token::keys::{NewKey, generate};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    static KEY: LazyLock<NewKey> = LazyLock::new(|| generate(SigningAlg::Es256).unwrap());
    static OTHER: LazyLock<NewKey> = LazyLock::new(|| generate(SigningAlg::Es256).unwrap());

    fn claims() -> Value {
        json!({"iss": "wiki", "sub": "wiki", "aud": "https://op.example", "iat": NOW.seconds(), "exp": NOW.seconds() + 60, "jti": "j-1"})
    }

    fn header() -> Value {
        json!({"alg": "ES256", "kid": KEY.kid})
    }

    fn with(mut object: Value, member: &str, value: Value) -> Value {
        object[member] = value;
        object
    }

    fn without(mut object: Value, member: &str) -> Value {
        object.as_object_mut().unwrap().remove(member);
        object
    }

    fn signed_text(header: &str, claims: &str, key: &NewKey) -> String {
        let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_ec_der(&key.private), Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    fn signed(header: &Value, claims: &Value) -> String {
        signed_text(&header.to_string(), &claims.to_string(), &KEY)
    }

    fn judged_by(text: &str, alg: Option<SigningAlg>, now: Timestamp) -> Result<Proof, AssertionRefused> {
        let issuer = Issuer::parse("https://op.example").unwrap();
        let keys = [&OTHER, &KEY].map(|key| PublicJwk::parse(&key.public_jwk).unwrap());
        prove(&Assertion::read(text)?, &keys, &AssertionRules { issuer: &issuer, alg, now })
    }

    fn refusal(text: &str) -> Option<AssertionRefused> {
        judged_by(text, None, NOW).err()
    }

    #[test]
    fn a_good_assertion_says_who_asks_and_until_when_it_must_be_remembered() {
        let text = signed(&header(), &claims());
        assert_eq!(Assertion::read(&text).unwrap().client_id().as_str(), "wiki");
        let proof = judged_by(&text, Some(SigningAlg::Es256), NOW).unwrap();
        assert_eq!((proof.jti().as_str(), proof.until()), ("j-1", NOW.plus(Duration::from_secs(120))));
        for header in ["JWT", "client-authentication+jwt", "application/client-authentication+jwt"] {
            assert_eq!(refusal(&signed(&with(self::header(), "typ", json!(header)), &claims())), None, "{header}");
        }
        let list = with(claims(), "aud", json!(["https://op.example"]));
        assert_eq!(refusal(&signed(&header(), &list)), None);
        assert_eq!(refusal(&signed(&header(), &without(claims(), "iat"))), None);
        assert_eq!(refusal(&signed(&without(header(), "kid"), &claims())), None);
    }

    #[test]
    fn a_claim_that_breaks_its_rule_is_refused_by_that_rule() {
        use AssertionRefused as R;
        let now = NOW.seconds();
        let table = [
            (with(claims(), "iss", json!("shop")), R::Client),
            (with(claims(), "sub", json!("shop")), R::Client),
            (without(claims(), "iss"), R::Client),
            (without(claims(), "sub"), R::Client),
            (with(claims(), "iss", json!(["wiki"])), R::Client),
            (with(claims(), "aud", json!("https://op.example/")), R::Audience),
            (with(claims(), "aud", json!("https://op.example/token")), R::Audience),
            (with(claims(), "aud", json!(["https://op.example", "https://other.example"])), R::Audience),
            (with(claims(), "aud", json!([])), R::Audience),
            (without(claims(), "aud"), R::Audience),
            (without(claims(), "exp"), R::Time),
            (with(claims(), "exp", json!(now - 60)), R::Time),
            (with(claims(), "exp", json!(now + 661)), R::Time),
            (with(claims(), "exp", json!("soon")), R::Time),
            (with(claims(), "nbf", json!(now + 61)), R::Time),
            (with(claims(), "iat", json!(now + 61)), R::Time),
            (with(claims(), "iat", Value::Null), R::Time),
            (without(claims(), "jti"), R::Jti),
            (with(claims(), "jti", json!("")), R::Jti),
            (with(claims(), "jti", json!("j".repeat(256))), R::Jti),
            (with(claims(), "nonce", json!("n")), R::Type),
            (with(claims(), "events", json!({})), R::Type),
        ];
        for (claims, why) in table {
            assert_eq!(refusal(&signed(&header(), &claims)), Some(why), "{claims}");
        }
        for (claims, at) in [(claims(), 119), (with(claims(), "exp", json!(now + 660)), 0)] {
            assert!(judged_by(&signed(&header(), &claims), None, NOW.plus(Duration::from_secs(at))).is_ok(), "{claims}");
        }
    }

    #[test]
    fn a_header_that_breaks_its_rule_is_refused() {
        use AssertionRefused as R;
        for (header, why) in [
            (with(header(), "typ", json!("logout+jwt")), R::Type),
            (with(header(), "typ", json!("at+jwt")), R::Type),
            (with(header(), "typ", json!(1)), R::Type),
            (with(header(), "crit", json!(["b64"])), R::Malformed),
            (with(header(), "crit", json!([])), R::Malformed),
            (with(header(), "alg", json!("none")), R::Algorithm),
            (with(header(), "alg", json!("HS256")), R::Algorithm),
            (with(header(), "alg", json!("ES512")), R::Algorithm),
            (with(header(), "alg", json!("ES384")), R::Signature),
            (with(header(), "kid", json!("never seen")), R::UnknownKey),
            (with(header(), "kid", json!(OTHER.kid)), R::Signature),
        ] {
            assert_eq!(refusal(&signed(&header, &claims())), Some(why), "{header}");
        }
        let text = signed(&header(), &claims());
        assert_eq!(judged_by(&text, Some(SigningAlg::Rs256), NOW), Err(R::Algorithm), "what was registered counts");
    }

    #[test]
    fn a_member_named_twice_and_what_is_no_signed_json_are_refused() {
        let twice = |text: String, member: &str| text.replacen('{', &format!("{{{member},"), 1);
        for text in [
            signed_text(&header().to_string(), &twice(claims().to_string(), r#""aud":"https://op.example""#), &KEY),
            signed_text(&twice(header().to_string(), r#""alg":"ES256""#), &claims().to_string(), &KEY),
            signed_text(&header().to_string(), "[]", &KEY),
            "a.b.c.d.e".to_owned(),
            "..".to_owned(),
            String::new(),
        ] {
            assert_eq!(refusal(&text), Some(AssertionRefused::Malformed), "{text:.60}");
        }
    }

    proptest! {
        #[test]
        fn no_single_change_leaves_an_assertion_good(position in any::<prop::sample::Index>(), other in "[A-Za-z0-9_-]") {
            let text = signed(&header(), &claims());
            let (head, tail) = text.split_at(position.index(text.len()));
            let changed = format!("{head}{other}{}", &tail[1..]);
            prop_assume!(changed != text);
            prop_assert!(judged_by(&changed, None, NOW).is_err());
        }
    }
}
