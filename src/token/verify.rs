//! Reading a provider's logout tokens: the other side of what this room writes.
//!
//! Owns the rules of BCL 2.6, in their order. Nothing a token says of itself is believed before its signature is: the algorithm, the issuer and the
//! keys come from the caller, and the header only picks among those keys by `kid`. Keys a header carries or points to (`jwk`, `jku`, `x5c`, `x5u`)
//! are never looked at. Never asks for the time and never fetches anything.
//!
//! Why claims are read by hand: a JWT library answers whether a token may be used to sign in, which no logout token may. What it does here is the
//! signature alone.

use std::time::Duration;

use serde_json::{Map, Value};

use super::jwks::PublicJwk;
use super::jws::{Flaw, Jws, Unsigned, numeric_date};
use crate::model::key::{SigningAlg, words};
use crate::model::{ClientId, Digest, Issuer, Jti, Sid, Subject, Timestamp};

/// The event that makes a token a logout token (BCL 2.4).
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// How far ahead of our clock `iat` and `nbf` may be, and how long `exp` may be over: clocks differ.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// How old `iat` may be while `exp` is to come: a sender that repeats a token for longer is no sender of logout tokens.
pub const AGE_MAX: Duration = Duration::from_hours(24);
/// How old `iat` may be where there is no `exp`: as long as a token should live that has one (BCL 4).
pub const AGE_MAX_WITHOUT_EXP: Duration = Duration::from_mins(2);

words! {
    /// Why something posted as a logout token is none, or none for us. A closed set: it labels a metric.
    Refused, "a refusal" {
        /// Longer than 16 KiB, or not a compact JWS of JSON objects that name no member twice.
        Malformed = "malformed",
        /// A JWE.
        Encrypted = "encrypted",
        /// It asks for an extension to be understood (RFC 7515 4.1.11).
        Critical = "critical",
        /// It says that it is something else.
        Type = "type",
        /// Signed with another algorithm than was agreed.
        Algorithm = "algorithm",
        /// The key it names is not one of its issuer's.
        UnknownKey = "unknown_key",
        /// No key of its issuer made the signature.
        Signature = "signature",
        /// Another issuer's.
        Issuer = "issuer",
        /// For another audience.
        Audience = "audience",
        /// Without a time of issuance, from the future, or too old.
        IssuedAt = "issued_at",
        /// Expired, not valid yet, or without an expiry where one is required.
        Expiry = "expiry",
        /// About nobody, or by names that are none.
        Names = "names",
        /// It tells of no logout.
        Event = "event",
        /// It has a `nonce`: an ID token could be mistaken for it.
        Nonce = "nonce",
        /// Without an identifier of its own.
        Jti = "jti",
    }
}

impl Refused {
    /// For whoever runs the sender.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Malformed => "the logout token is not a compact JWS of JSON objects, of at most 16 KiB",
            Self::Encrypted => "encrypted logout tokens are not supported",
            Self::Critical => "the logout token has a crit header, and no extension is supported",
            Self::Type => "the logout token has another typ than logout+jwt or JWT",
            Self::Algorithm => "the logout token is not signed with the registered algorithm",
            Self::UnknownKey => "the logout token names a key that its issuer does not publish",
            Self::Signature => "the logout token's signature was made with no published key of its issuer",
            Self::Issuer => "the logout token has another iss",
            Self::Audience => "the logout token's aud is not exactly one client that is registered here",
            Self::IssuedAt => "the logout token's iat is missing, in the future, or too long ago",
            Self::Expiry => "the logout token has expired, is not valid yet, or has no exp",
            Self::Names => "the logout token has neither a sub nor a sid that is a string of 1 to 255 characters",
            Self::Event => "the logout token's events do not hold the back-channel logout event with an object",
            Self::Nonce => "the logout token has a nonce",
            Self::Jti => "the logout token has no jti that is a string of 1 to 255 characters",
        }
    }
}

impl std::error::Error for Refused {}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed => Self::Malformed,
            // BCL 2.6 (1): only what was agreed to be encrypted may be, and nothing is.
            Flaw::Encrypted => Self::Encrypted,
            Flaw::Critical => Self::Critical,
            Flaw::Type => Self::Type,
        }
    }
}

impl From<Unsigned> for Refused {
    fn from(unsigned: Unsigned) -> Self {
        match unsigned {
            Unsigned::UnknownKey => Self::UnknownKey,
            Unsigned::Signature => Self::Signature,
        }
    }
}

/// A token taken apart, of which nothing is verified.
#[derive(Clone, Debug)]
pub struct Inspected(Jws);

/// Takes a token apart: three parts of strict base64url, JSON without duplicate members (RFC 7519 4), a header that could be a logout token's.
pub fn inspect(text: &str) -> Result<Inspected, Refused> {
    let token = Jws::read(text)?;
    // RFC 8725 3.11, with the tolerance of BCL 2.4: a token that says nothing of its type may be one, one that says that it is something else is not.
    match token.typ.as_deref() {
        None | Some("logout+jwt" | "jwt") => Ok(Inspected(token)),
        Some(_) => Err(Refused::Type),
    }
}

impl Inspected {
    /// The key it names, unverified: fit to look for that key.
    pub fn kid(&self) -> Option<&str> {
        self.0.kid.as_deref()
    }

    /// The one client it is for, unverified: fit to look up what that client registered. More than one audience is refused: whom else it is for, we
    /// have no reason to trust (OpenID Connect Core 3.1.3.7 (3)).
    pub fn audience(&self) -> Result<ClientId, Refused> {
        let only = match self.0.claims.get("aud") {
            Some(Value::String(only)) => Some(only),
            Some(Value::Array(all)) => match all.as_slice() {
                [Value::String(only)] => Some(only),
                _ => None,
            },
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => None,
        };
        only.and_then(|only| ClientId::parse(only).ok()).ok_or(Refused::Audience)
    }
}

/// Whether a token must say when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpNeed {
    /// It must (BCL 2.4).
    Required,
    /// It need not: its issuer's software is older than the rule. Then it is good for [`AGE_MAX_WITHOUT_EXP`].
    Optional,
}

/// What a token is held against.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Whose it must be, to the letter.
    pub issuer: &'a Issuer,
    /// Whom it must be for.
    pub audience: &'a ClientId,
    /// What it must be signed with: registered, never the header's choice (RFC 8725 3.1).
    pub alg: SigningAlg,
    /// Whether it must say when it expires.
    pub exp: ExpNeed,
    /// The present instant.
    pub now: Timestamp,
}

/// Whom a logout token is about: at least one of the two (BCL 2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// All sessions of the subject at that client.
    Sub(Subject),
    /// One session.
    Sid(Sid),
    /// One session, and whose it is.
    Both(Subject, Sid),
}

impl About {
    /// Who, if it says so.
    pub const fn sub(&self) -> Option<&Subject> {
        match self {
            Self::Sub(sub) | Self::Both(sub, _) => Some(sub),
            Self::Sid(_) => None,
        }
    }

    /// Which session, if it says so.
    pub const fn sid(&self) -> Option<&Sid> {
        match self {
            Self::Sid(sid) | Self::Both(_, sid) => Some(sid),
            Self::Sub(_) => None,
        }
    }
}

/// A logout token that holds in every respect. Only [`verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    audience: ClientId,
    about: About,
    jti: Jti,
    issued_at: Timestamp,
    fresh_until: Timestamp,
    taken_until: Timestamp,
    digest: Digest,
}

impl Verified {
    /// Whom it is for.
    pub const fn audience(&self) -> &ClientId {
        &self.audience
    }

    /// Whom it is about.
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// Its identifier.
    pub const fn jti(&self) -> &Jti {
        &self.jti
    }

    /// When it was issued, by its issuer's clock.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// Until when it may be passed on unchanged: its `exp`, or two minutes after its `iat`, and a little longer if that was over when it came.
    pub const fn fresh_until(&self) -> Timestamp {
        self.fresh_until
    }

    /// Until when it would be taken again: as long must its `jti` be remembered.
    pub const fn taken_until(&self) -> Timestamp {
        self.taken_until
    }

    /// The SHA-256 of its octets.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// Holds a token against the rules, in the order of BCL 2.6.
pub fn verify(token: &Inspected, keys: &[PublicJwk], rules: &Rules<'_>) -> Result<Verified, Refused> {
    // BCL 2.6 (3)
    if token.0.alg != rules.alg.as_str() {
        return Err(Refused::Algorithm);
    }
    token.0.check_signature(keys, rules.alg)?; // BCL 2.6 (2)
    let claims = &token.0.claims;
    // BCL 2.6 (4)
    if claims.get("iss").and_then(Value::as_str) != Some(rules.issuer.as_str()) {
        return Err(Refused::Issuer);
    }
    if token.audience()? != *rules.audience {
        return Err(Refused::Audience);
    }
    let times = times(claims, rules)?;
    let about = about(claims)?; // BCL 2.6 (5)
    check_event(claims)?; // BCL 2.6 (6)
    // BCL 2.6 (7): not even as null.
    if claims.contains_key("nonce") {
        return Err(Refused::Nonce);
    }
    let jti = claims.get("jti").and_then(Value::as_str).and_then(|jti| Jti::parse(jti).ok()).ok_or(Refused::Jti)?;
    Ok(Verified {
        audience: rules.audience.clone(),
        about,
        jti,
        issued_at: times.issued_at,
        fresh_until: times.fresh_until,
        taken_until: times.taken_until,
        digest: token.0.digest,
    })
}

/// When a token was issued and how long it lasts.
struct Times {
    issued_at: Timestamp,
    fresh_until: Timestamp,
    taken_until: Timestamp,
}

fn times(claims: &Map<String, Value>, rules: &Rules<'_>) -> Result<Times, Refused> {
    let now = rules.now;
    let issued_at = numeric_date(claims.get("iat")).ok_or(Refused::IssuedAt)?;
    if issued_at > now.plus(SKEW_MAX) {
        return Err(Refused::IssuedAt);
    }
    // RFC 7519 4.1.5
    match claims.get("nbf") {
        None => {}
        Some(nbf) if numeric_date(Some(nbf)).is_some_and(|nbf| nbf <= now.plus(SKEW_MAX)) => {}
        Some(_) => return Err(Refused::Expiry),
    }
    let (fresh_until, age_max) = match (claims.get("exp"), rules.exp) {
        (None, ExpNeed::Required) => return Err(Refused::Expiry),
        (None, ExpNeed::Optional) => (issued_at.plus(AGE_MAX_WITHOUT_EXP), AGE_MAX_WITHOUT_EXP),
        (exp @ Some(_), _) => (numeric_date(exp).ok_or(Refused::Expiry)?, AGE_MAX),
    };
    let oldest_until = issued_at.plus(age_max);
    if now >= oldest_until.plus(SKEW_MAX) {
        return Err(Refused::IssuedAt);
    }
    // RFC 7519 4.1.4
    if now >= fresh_until.plus(SKEW_MAX) {
        return Err(Refused::Expiry);
    }
    let good_until = fresh_until.min(oldest_until);
    let taken_until = good_until.plus(SKEW_MAX);
    // What was taken within the leeway is passed on within it: the relying party's clock may be as the provider's is.
    let fresh_until = if now < good_until { good_until } else { taken_until };
    Ok(Times { issued_at, fresh_until, taken_until })
}

fn about(claims: &Map<String, Value>) -> Result<About, Refused> {
    let name = |claim: &str| match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.as_str())),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(Refused::Names),
    };
    let sub = name("sub")?.map(Subject::parse).transpose().map_err(|_| Refused::Names)?;
    let sid = name("sid")?.map(Sid::parse).transpose().map_err(|_| Refused::Names)?;
    match (sub, sid) {
        (Some(sub), Some(sid)) => Ok(About::Both(sub, sid)),
        (Some(sub), None) => Ok(About::Sub(sub)),
        (None, Some(sid)) => Ok(About::Sid(sid)),
        (None, None) => Err(Refused::Names),
    }
}

/// BCL 2.4: the member's value is an object; whatever else stands in either is ignored.
fn check_event(claims: &Map<String, Value>) -> Result<(), Refused> {
    let event = claims.get("events").and_then(Value::as_object).and_then(|events| events.get(LOGOUT_EVENT));
    if event.is_some_and(Value::is_object) { Ok(()) } else { Err(Refused::Event) }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use base64::Engine as _;
    use jsonwebtoken::{Algorithm, EncodingKey};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::client::TokenTyp;
    use crate::token::BASE64URL;
    use crate::token::digest::{JWT_OCTETS_MAX, digest_of_token};
    use crate::token::keys::{NewKey, SigningKey, generate};
    use crate::token::{LogoutToken, Named};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    static KEY: LazyLock<NewKey> = LazyLock::new(|| generate(SigningAlg::Es256).unwrap());
    static OTHER: LazyLock<NewKey> = LazyLock::new(|| generate(SigningAlg::Es256).unwrap());

    fn public(key: &NewKey) -> PublicJwk {
        PublicJwk::parse(&key.public_jwk).unwrap()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://op.example", "aud": "wiki", "iat": NOW.seconds(), "exp": NOW.seconds() + 120, "jti": "j-1",
            "sub": "alice", "sid": "s-1", "events": {LOGOUT_EVENT: {}},
        })
    }

    fn with(member: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[member] = value;
        claims
    }

    fn without(member: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(member);
        claims
    }

    fn header() -> Value {
        json!({"alg": "ES256", "typ": "logout+jwt", "kid": KEY.kid})
    }

    fn with_header(member: &str, value: Value) -> Value {
        let mut header = header();
        header[member] = value;
        header
    }

    fn signed_text(header: &str, claims: &str, key: &NewKey) -> String {
        let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_ec_der(&key.private), Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    fn signed(header: &Value, claims: &Value) -> String {
        signed_text(&header.to_string(), &claims.to_string(), &KEY)
    }

    fn judged_at(token: &str, keys: &[PublicJwk], exp: ExpNeed, now: Timestamp) -> Result<Verified, Refused> {
        let (issuer, audience) = (Issuer::parse("https://op.example").unwrap(), ClientId::parse("wiki").unwrap());
        verify(&inspect(token)?, keys, &Rules { issuer: &issuer, audience: &audience, alg: SigningAlg::Es256, exp, now })
    }

    fn judged(token: &str) -> Result<Verified, Refused> {
        judged_at(token, &[public(&OTHER), public(&KEY)], ExpNeed::Required, NOW)
    }

    fn refusal(token: &str) -> Option<Refused> {
        judged(token).err()
    }

    #[test]
    fn a_good_token_says_whom_it_is_about_and_how_long_it_lasts() {
        let token = signed(&header(), &claims());
        let good = judged(&token).unwrap();
        assert_eq!(good.about(), &About::Both(Subject::parse("alice").unwrap(), Sid::parse("s-1").unwrap()));
        assert_eq!((good.audience().as_str(), good.jti().as_str()), ("wiki", "j-1"));
        assert_eq!((good.issued_at(), good.fresh_until()), (NOW, NOW.plus(Duration::from_secs(120))));
        assert_eq!(good.taken_until(), NOW.plus(Duration::from_secs(180)));
        assert_eq!(*good.digest(), digest_of_token(token.as_bytes()));
    }

    #[test]
    fn what_this_room_writes_it_reads_whatever_the_algorithm() {
        let (issuer, audience) = (Issuer::parse("https://op.example").unwrap(), ClientId::parse("wiki").unwrap());
        let sid = Sid::parse("s 1;+%\"").unwrap();
        for alg in SigningAlg::ALL.iter().copied() {
            let new = generate(alg).unwrap();
            let key = SigningKey::from_pkcs8(alg, &new.kid, &new.private).unwrap();
            let token = LogoutToken {
                issuer: &issuer,
                audience: &audience,
                named: Named::Sid(&sid),
                jti: "j",
                issued_at: NOW,
                lifetime: Duration::from_mins(2),
                occurred_at: NOW,
                typ: TokenTyp::LogoutJwt,
            };
            let token = inspect(&token.sign(&key).unwrap()).unwrap();
            let rules = |alg| Rules { issuer: &issuer, audience: &audience, alg, exp: ExpNeed::Required, now: NOW };
            assert_eq!(verify(&token, &[public(&new)], &rules(alg)).unwrap().about(), &About::Sid(sid.clone()), "{alg}");
            for other in SigningAlg::ALL.iter().filter(|other| **other != alg) {
                assert_eq!(verify(&token, &[public(&new)], &rules(*other)).err(), Some(Refused::Algorithm), "{alg} for {other}");
            }
        }
    }

    #[test]
    fn what_may_differ_between_senders_does_not_matter() {
        for header in [
            json!({"alg": "ES256"}),
            with_header("typ", json!("JWT")),
            with_header("typ", json!("application/logout+jwt")),
            with_header("typ", json!("LOGOUT+JWT")),
            with_header("x", json!({"y": 1})),
            with_header("jku", json!("https://attacker.example/jwks")),
        ] {
            assert_eq!(refusal(&signed(&header, &claims())), None, "{header}");
        }
        for claims in [
            with("aud", json!(["wiki"])),
            with("events", json!({LOGOUT_EVENT: {"more": 1}, "urn:other": 7})),
            with("extra", json!([null])),
            with("iat", json!(1_799_999_999.25)),
            with("exp", json!(1_800_000_000.5)),
            with("nbf", json!(1_800_000_000)),
            without("sub"),
            without("sid"),
        ] {
            assert_eq!(refusal(&signed(&header(), &claims)), None, "{claims}");
        }
    }

    #[test]
    fn a_claim_that_breaks_its_rule_is_refused_by_that_rule() {
        use Refused as R;
        let now = NOW.seconds();
        let table = [
            (with("iss", json!("https://op.example/")), R::Issuer),
            (with("iss", json!("https://op.exampleINVALID")), R::Issuer),
            (with("iss", json!(["https://op.example"])), R::Issuer),
            (without("iss"), R::Issuer),
            (with("aud", json!("wikiINVALID")), R::Audience),
            (with("aud", json!("shop")), R::Audience),
            (with("aud", json!(["wiki", "shop"])), R::Audience),
            (with("aud", json!(["wiki", "wiki"])), R::Audience),
            (with("aud", json!([])), R::Audience),
            (with("aud", json!({"wiki": 1})), R::Audience),
            (without("aud"), R::Audience),
            (without("iat"), R::IssuedAt),
            (with("iat", json!("1800000000")), R::IssuedAt),
            (with("iat", json!(now + 61)), R::IssuedAt),
            (with("iat", json!(-1)), R::IssuedAt),
            (with("iat", json!(1e300)), R::IssuedAt),
            (with("iat", json!(now - 25 * 3600)), R::IssuedAt),
            (without("exp"), R::Expiry),
            (with("exp", Value::Null), R::Expiry),
            (with("exp", json!(now - 60)), R::Expiry),
            (with("exp", json!("soon")), R::Expiry),
            (with("nbf", json!(now + 61)), R::Expiry),
            (with("nbf", json!("now")), R::Expiry),
            (with("sub", json!("")), R::Names),
            (with("sub", json!(7)), R::Names),
            (with("sub", Value::Null), R::Names),
            (with("sid", json!("")), R::Names),
            (with("sid", json!(["s-1"])), R::Names),
            (with("sid", json!("a\u{0}")), R::Names),
            (with("sid", json!("s".repeat(256))), R::Names),
            (without("events"), R::Event),
            (with("events", json!(LOGOUT_EVENT)), R::Event),
            (with("events", json!([LOGOUT_EVENT])), R::Event),
            (with("events", json!({"http://schemas.openid.net/event/foobar": {}})), R::Event),
            (with("events", json!({"https://schemas.openid.net/event/backchannel-logout": {}})), R::Event),
            (with("events", json!({LOGOUT_EVENT: "yes"})), R::Event),
            (with("events", json!({LOGOUT_EVENT: []})), R::Event),
            (with("events", json!({LOGOUT_EVENT: null})), R::Event),
            (with("nonce", json!("n")), R::Nonce),
            (with("nonce", Value::Null), R::Nonce),
            (without("jti"), R::Jti),
            (with("jti", json!("")), R::Jti),
            (with("jti", json!(1)), R::Jti),
            (with("jti", json!("j".repeat(256))), R::Jti),
        ];
        for (claims, why) in table {
            assert_eq!(refusal(&signed(&header(), &claims)), Some(why), "{claims}");
        }
        let nameless = without("sub");
        let nameless = json!({"iss": nameless["iss"], "aud": "wiki", "iat": now, "exp": now + 1, "jti": "j", "events": {LOGOUT_EVENT: {}}});
        assert_eq!(refusal(&signed(&header(), &nameless)), Some(R::Names));
        let id_token =
            json!({"iss": "https://op.example", "aud": "wiki", "iat": now, "exp": now + 300, "sub": "alice", "sid": "s-1", "jti": "j"});
        assert_eq!(refusal(&signed(&header(), &id_token)), Some(R::Event), "an ID token ends nothing");
    }

    #[test]
    fn a_header_that_breaks_its_rule_is_refused() {
        use Refused as R;
        for (header, why) in [
            (with_header("typ", json!("at+jwt")), R::Type),
            (with_header("typ", json!("secevent+jwt")), R::Type),
            (with_header("typ", json!("application/at+jwt")), R::Type),
            (with_header("typ", json!("text/logout+jwt")), R::Type),
            (with_header("typ", json!(1)), R::Type),
            (with_header("crit", json!(["b64"])), R::Critical),
            (with_header("crit", json!([])), R::Critical),
            (with_header("enc", json!("A256GCM")), R::Encrypted),
            (with_header("alg", json!("none")), R::Algorithm),
            (with_header("alg", json!("RS256")), R::Algorithm),
            (with_header("alg", json!("HS256")), R::Algorithm),
            (with_header("alg", json!("es256")), R::Algorithm),
            (with_header("alg", json!(["ES256"])), R::Malformed),
            (with_header("kid", json!(7)), R::Malformed),
            (with_header("kid", json!("")), R::UnknownKey),
            (with_header("kid", json!("never seen")), R::UnknownKey),
            (with_header("kid", json!(OTHER.kid)), R::Signature),
        ] {
            assert_eq!(refusal(&signed(&header, &claims())), Some(why), "{header}");
        }
        let attackers = with_header("jwk", serde_json::from_str(&OTHER.public_jwk).unwrap());
        let forged = signed_text(&attackers.to_string(), &claims().to_string(), &OTHER);
        assert_eq!(judged_at(&forged, &[public(&KEY)], ExpNeed::Required, NOW).err(), Some(R::Signature), "its own key counts for nothing");
    }

    #[test]
    fn a_secret_made_of_a_public_key_signs_nothing() {
        for secret in [KEY.public_jwk.as_bytes(), KEY.kid.as_bytes()] {
            let header = with_header("alg", json!("HS256"));
            let message = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims().to_string()));
            let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap();
            assert_eq!(refusal(&format!("{message}.{mac}")), Some(Refused::Algorithm));
        }
    }

    #[test]
    fn an_elliptic_signature_has_one_form_and_is_never_zero() {
        let token = signed(&header(), &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let fixed = BASE64URL.decode(signature).unwrap();
        let integer = |half: &[u8]| [&[2, 33, 0], half].concat();
        let (r, s) = fixed.split_at(32);
        let der = [[48_u8, 70].as_slice(), &integer(r), &integer(s)].concat();
        for forged in [vec![0; 64], der, Vec::new(), fixed[..63].to_vec()] {
            assert_eq!(refusal(&format!("{message}.{}", BASE64URL.encode(&forged))), Some(Refused::Signature), "{forged:?}");
        }
    }

    #[test]
    fn what_is_not_three_parts_of_strict_json_is_refused() {
        let (header, claims) = (header().to_string(), claims().to_string());
        let twice = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
        for token in [
            String::new(),
            "garbage".to_owned(),
            "..".to_owned(),
            "a.b".to_owned(),
            "a.b.c.d".to_owned(),
            format!("{}=", signed_text(&header, &claims, &KEY)),
            format!("{} ", signed_text(&header, &claims, &KEY)),
            signed_text(&header, "[]", &KEY),
            signed_text(&header, &twice(&claims, r#""aud":"wiki""#), &KEY),
            signed_text(&header, &twice(&claims, r#""events":{}"#), &KEY),
            signed_text(&twice(&header, r#""alg":"ES256""#), &claims, &KEY),
            signed_text(&header, &with("extra", json!("x".repeat(JWT_OCTETS_MAX))).to_string(), &KEY),
        ] {
            assert_eq!(refusal(&token), Some(Refused::Malformed), "{token:.60}");
        }
        assert_eq!(refusal("a.b.c.d.e"), Some(Refused::Encrypted));
    }

    #[test]
    fn without_exp_a_token_is_good_for_two_minutes_where_its_issuer_may_leave_it_out() {
        let token = signed(&header(), &without("exp"));
        let judged = |seconds| judged_at(&token, &[public(&KEY)], ExpNeed::Optional, NOW.plus(Duration::from_secs(seconds)));
        assert_eq!(judged(0).unwrap().fresh_until(), NOW.plus(Duration::from_mins(2)));
        assert!(judged(179).is_ok());
        assert_eq!(judged(180).err(), Some(Refused::IssuedAt));
        let expired = signed(&header(), &with("exp", json!(NOW.seconds())));
        let late = NOW.plus(Duration::from_secs(60));
        assert_eq!(
            judged_at(&expired, &[public(&KEY)], ExpNeed::Optional, late).err(),
            Some(Refused::Expiry),
            "an exp that is there counts"
        );
    }

    #[test]
    fn a_key_is_used_for_nothing_it_is_not_published_for() {
        let published = |change: &dyn Fn(&mut PublicJwk)| {
            let mut key = public(&KEY);
            change(&mut key);
            judged_at(&signed(&header(), &claims()), &[key], ExpNeed::Required, NOW).err()
        };
        assert_eq!(published(&|_| {}), None);
        assert_eq!(published(&|key| (key.alg, key.key_use) = (None, None)), None);
        assert_eq!(published(&|key| key.key_use = Some("enc".to_owned())), Some(Refused::Signature));
        assert_eq!(published(&|key| key.alg = Some("ECDH-ES".to_owned())), Some(Refused::Signature));
        let nameless = signed(&json!({"alg": "ES256"}), &claims());
        assert_eq!(judged(&nameless).err(), None, "without a name each key that fits is tried");
        assert_eq!(judged_at(&nameless, &[public(&OTHER)], ExpNeed::Required, NOW).err(), Some(Refused::Signature));
        assert_eq!(judged_at(&nameless, &[], ExpNeed::Required, NOW).err(), Some(Refused::UnknownKey));
    }

    proptest! {
        #[test]
        fn no_single_change_to_a_token_leaves_it_good(position in any::<prop::sample::Index>(), other in "[A-Za-z0-9_-]") {
            let token = signed(&header(), &claims());
            let position = position.index(token.len());
            let (head, tail) = token.split_at(position);
            let changed = format!("{head}{other}{}", &tail[1..]);
            prop_assume!(changed != token);
            prop_assert!(judged(&changed).is_err());
        }

        #[test]
        fn whatever_is_posted_is_answered(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..7)) {
            prop_assert!(judged(&text).is_err());
            prop_assert!(judged(&parts.join(".")).is_err());
        }
    }
}
