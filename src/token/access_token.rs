//! Reading a provider's access tokens: JWTs it signed (RFC 9068 4, RFC 8725), and what it says of those that are opaque (RFC 7662 2.2).
//!
//! Nothing a token says of itself is believed before its signature is: the issuer, its keys and the audiences come from the caller. The keys are the
//! provider's, never ours. Whether a token that holds here is active is not decided here. Never asks for the time and never fetches anything.
//!
//! Why a token's purpose is looked for in so many places: with one key a provider signs access tokens, ID tokens, refresh tokens and logout tokens, and
//! those that do not type them tell them apart each in its own way (RFC 8725 2.8).

use std::time::Duration;

use serde_json::{Map, Value};

use super::json;
use super::jwks::PublicJwk;
use super::jws::{Flaw, Jws, Unsigned, numeric_date};
use crate::model::issuer::AccessTokenTyp;
use crate::model::key::{SigningAlg, words};
use crate::model::token::AccessClaims;
use crate::model::{ClientId, Issuer, Jti, Sid, Subject, Timestamp};

/// How far ahead of our clock `iat` and `nbf` may be: clocks differ.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// How many audiences one token may have.
const AUDIENCES_MAX: usize = 50;

words! {
    /// Why something shown as an access token is none, or none for us. A closed set: it labels a metric.
    Refused, "a refusal" {
        /// Longer than 16 KiB, or not a compact JWS of JSON objects that name no member twice.
        Malformed = "malformed",
        /// A JWE.
        Encrypted = "encrypted",
        /// It asks for an extension to be understood (RFC 7515 4.1.11).
        Critical = "critical",
        /// It says that it is something else.
        Type = "type",
        /// Signed in a way that proves nothing here.
        Algorithm = "algorithm",
        /// The key it names is not one of its issuer's.
        UnknownKey = "unknown_key",
        /// No key of its issuer made the signature.
        Signature = "signature",
        /// Another issuer's.
        Issuer = "issuer",
        /// For other audiences.
        Audience = "audience",
        /// Issued in the future.
        IssuedAt = "issued_at",
        /// Expired, not valid yet, or without an expiry.
        Expiry = "expiry",
        /// A name or a scope in it is none.
        Names = "names",
    }
}

impl std::error::Error for Refused {}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed => Self::Malformed,
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
pub struct Unverified(Jws);

impl Unverified {
    /// The key it names, unverified: fit to look for that key.
    pub fn kid(&self) -> Option<&str> {
        self.0.kid.as_deref()
    }
}

/// Whether a token is one of those that are read here, and not an opaque one: three parts, the first of which may be the base64url of a JSON object. One
/// that is encrypted is opaque to us.
pub fn looks_like_a_jwt(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|octet| *octet == b'.').count() == 2
}

/// When something shaped like a signed JWT says that it ends. **Nothing is verified**: fit to make a token that is known shorter-lived, and for nothing else.
pub fn own_end(text: &str) -> Option<Timestamp> {
    numeric_date(Jws::read(text).ok()?.claims.get("exp"))
}

/// Takes a token apart whose header and claims could be an access token's.
pub fn inspect(text: &str, typ: AccessTokenTyp) -> Result<Unverified, Refused> {
    let token = Jws::read(text)?;
    // RFC 9068 4, RFC 8725 3.11
    let typed = match (typ, token.typ.as_deref()) {
        (_, Some("at+jwt")) | (AccessTokenTyp::Jwt, Some("jwt") | None) => true,
        (AccessTokenTyp::AtJwt | AccessTokenTyp::Jwt, _) => false,
    };
    if typed && !is_of_another_purpose(&token.claims) { Ok(Unverified(token)) } else { Err(Refused::Type) }
}

/// Claims that only other tokens have: logout tokens and security events, ID tokens; and the words by which providers name a token's purpose.
fn is_of_another_purpose(claims: &Map<String, Value>) -> bool {
    ["events", "nonce", "at_hash", "c_hash"].iter().any(|claim| claims.contains_key(*claim))
        || ["typ", "token_use", "token_type"].iter().filter_map(|claim| claims.get(*claim)).any(names_another_purpose)
}

/// `typ` of Keycloak (`ID`, `Refresh`, `Offline`, `Logout`), `token_use` of Cognito (`id`) and Hydra (`refresh_token`), `token_type` of RFC 7662 2.2.
fn names_another_purpose(word: &Value) -> bool {
    let Some(word) = word.as_str().map(str::to_ascii_lowercase) else { return true };
    matches!(word.as_str(), "id" | "n_a")
        || ["refresh", "offline", "logout", "secevent", "id_token", "id-token"].iter().any(|other| word.contains(other))
}

/// What a token is held against.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Whose it must be, to the letter.
    pub issuer: &'a Issuer,
    /// One of these it must be for; none: any audience will do.
    pub audiences: &'a [String],
    /// The present instant.
    pub now: Timestamp,
}

/// Holds a token against its issuer's keys and the rules, in the order of RFC 9068 4.
pub fn verify(token: &Unverified, keys: &[PublicJwk], rules: &Rules<'_>) -> Result<AccessClaims, Refused> {
    let Unverified(token) = token;
    // Never `none` and never a MAC: a public key is no secret (RFC 8725 3.1).
    let alg = SigningAlg::parse(&token.alg).map_err(|_| Refused::Algorithm)?;
    token.check_signature(keys, alg)?;
    if token.claims.get("iss").and_then(Value::as_str) != Some(rules.issuer.as_str()) {
        return Err(Refused::Issuer);
    }
    let (claims, expires_at) = read(&token.claims, rules)?;
    let expires_at = expires_at.ok_or(Refused::Expiry)?;
    Ok(AccessClaims { expires_at, ..claims })
}

/// What a provider says of an active token of its, in an answer of which the connection proves who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it says.
    pub claims: AccessClaims,
    /// When the token expires, where that was said.
    pub expires_at: Option<Timestamp>,
}

/// Reads a provider's answer about a token (RFC 7662 2.2); none where the token is not active.
pub fn told(answer: &[u8], rules: &Rules<'_>) -> Result<Option<Told>, Refused> {
    let said = json::object(answer).ok_or(Refused::Malformed)?;
    match said.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) | None => {
            return Err(Refused::Malformed);
        }
    }
    // A refresh token is active too, and opens nothing.
    if is_of_another_purpose(&said) {
        return Err(Refused::Type);
    }
    if said.get("iss").is_some_and(|iss| iss.as_str() != Some(rules.issuer.as_str())) {
        return Err(Refused::Issuer);
    }
    let (claims, expires_at) = read(&said, rules)?;
    Ok(Some(Told { claims, expires_at }))
}

/// The claims, and when it expires if that is said.
fn read(claims: &Map<String, Value>, rules: &Rules<'_>) -> Result<(AccessClaims, Option<Timestamp>), Refused> {
    let aud = audiences(claims.get("aud"))?;
    if !rules.audiences.is_empty() && !aud.iter().any(|aud| rules.audiences.contains(aud)) {
        return Err(Refused::Audience);
    }
    let time = |claim: &str| claims.get(claim).map(|value| numeric_date(Some(value)).ok_or(())).transpose();
    let issued_at = time("iat").map_err(|()| Refused::IssuedAt)?;
    if issued_at.is_some_and(|iat| iat > rules.now.plus(SKEW_MAX)) {
        return Err(Refused::IssuedAt);
    }
    let (not_before, expires_at) = (time("nbf").map_err(|()| Refused::Expiry)?, time("exp").map_err(|()| Refused::Expiry)?);
    if not_before.is_some_and(|nbf| nbf > rules.now.plus(SKEW_MAX)) || expires_at.is_some_and(|exp| rules.now >= exp) {
        return Err(Refused::Expiry);
    }
    let name = |claim: &str| match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.as_str())),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(Refused::Names),
    };
    // RFC 9068 2.2; those that are older than it call it as ID tokens do.
    let client_id = name("client_id")?.map_or_else(|| name("azp"), |client| Ok(Some(client)))?;
    let claims = AccessClaims {
        client_id: client_id.map(ClientId::parse).transpose().map_err(|_| Refused::Names)?,
        sub: name("sub")?.map(Subject::parse).transpose().map_err(|_| Refused::Names)?,
        sid: name("sid")?.map(Sid::parse).transpose().map_err(|_| Refused::Names)?,
        jti: name("jti")?.map(Jti::parse).transpose().map_err(|_| Refused::Names)?,
        issued_at,
        not_before,
        expires_at: expires_at.unwrap_or(rules.now),
        scope: scope(claims)?,
        aud,
    };
    Ok((claims, expires_at))
}

/// RFC 7519 4.1.3: a string or a list of strings.
fn audiences(aud: Option<&Value>) -> Result<Vec<String>, Refused> {
    match aud {
        None => Ok(Vec::new()),
        Some(Value::String(only)) => Ok(vec![only.clone()]),
        Some(Value::Array(all)) if all.len() <= AUDIENCES_MAX => {
            all.iter().map(|aud| aud.as_str().map(str::to_owned).ok_or(Refused::Audience)).collect()
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(Refused::Audience),
    }
}

/// `scope` (RFC 8693 4.2), or else `scp`, each a string or a list; as a string with spaces.
fn scope(claims: &Map<String, Value>) -> Result<Option<String>, Refused> {
    let Some(scope) = claims.get("scope").or_else(|| claims.get("scp")) else { return Ok(None) };
    let words: Vec<&str> = match scope {
        Value::String(words) => words.split(' ').filter(|word| !word.is_empty()).collect(),
        Value::Array(words) => words.iter().map(|word| word.as_str().ok_or(Refused::Names)).collect::<Result<_, _>>()?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Err(Refused::Names),
    };
    // RFC 6749 3.3. What holds a space would be two of them.
    let legal = |word: &&str| !word.is_empty() && word.bytes().all(|octet| matches!(octet, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    if words.iter().all(legal) { Ok(Some(words.join(" ")).filter(|scope| !scope.is_empty())) } else { Err(Refused::Names) }
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
    use crate::token::digest::JWT_OCTETS_MAX;
    use crate::token::keys::{NewKey, generate};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    static KEY: LazyLock<NewKey> = LazyLock::new(|| generate(SigningAlg::Es256).unwrap());
    static OTHER: LazyLock<NewKey> = LazyLock::new(|| generate(SigningAlg::Es256).unwrap());

    fn public(key: &NewKey) -> PublicJwk {
        PublicJwk::parse(&key.public_jwk).unwrap()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://op.example", "aud": ["api", "other"], "iat": NOW.seconds(), "exp": NOW.seconds() + 300, "jti": "j-1",
            "sub": "alice", "sid": "s-1", "client_id": "wiki", "scope": "read write",
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
        json!({"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid})
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

    fn judged_as(typ: AccessTokenTyp, token: &str, audiences: &[&str], now: Timestamp) -> Result<AccessClaims, Refused> {
        let issuer = Issuer::parse("https://op.example").unwrap();
        let audiences: Vec<String> = audiences.iter().map(|aud| (*aud).to_owned()).collect();
        let rules = Rules { issuer: &issuer, audiences: &audiences, now };
        verify(&inspect(token, typ)?, &[public(&OTHER), public(&KEY)], &rules)
    }

    fn judged(token: &str) -> Result<AccessClaims, Refused> {
        judged_as(AccessTokenTyp::AtJwt, token, &["api"], NOW)
    }

    fn refusal(token: &str) -> Option<Refused> {
        judged(token).err()
    }

    fn answered(answer: &Value) -> Result<Option<Told>, Refused> {
        let (issuer, audiences) = (Issuer::parse("https://op.example").unwrap(), ["api".to_owned()]);
        told(answer.to_string().as_bytes(), &Rules { issuer: &issuer, audiences: &audiences, now: NOW })
    }

    #[test]
    fn a_good_token_says_whose_it_is_and_what_for() {
        let expected = AccessClaims {
            client_id: Some(ClientId::parse("wiki").unwrap()),
            sub: Some(Subject::parse("alice").unwrap()),
            sid: Some(Sid::parse("s-1").unwrap()),
            jti: Some(Jti::parse("j-1").unwrap()),
            issued_at: Some(NOW),
            not_before: None,
            expires_at: NOW.plus(Duration::from_secs(300)),
            scope: Some("read write".to_owned()),
            aud: vec!["api".to_owned(), "other".to_owned()],
        };
        assert_eq!(judged(&signed(&header(), &claims())), Ok(expected.clone()));
        let mut answer = claims();
        answer["active"] = json!(true);
        let expires_at = Some(expected.expires_at);
        assert_eq!(answered(&answer), Ok(Some(Told { claims: expected, expires_at })));
    }

    #[test]
    fn what_providers_call_otherwise_is_read_all_the_same() {
        let read = |claims: Value| judged(&signed(&header(), &claims)).unwrap();
        let mut azp = without("client_id");
        azp["azp"] = json!("shop");
        assert_eq!(read(azp).client_id.unwrap().as_str(), "shop");
        assert_eq!(read(with("azp", json!("shop"))).client_id.unwrap().as_str(), "wiki");
        assert_eq!(read(with("scope", json!(["a", "b"]))).scope.as_deref(), Some("a b"));
        for scp in [json!(["a", "b"]), json!("a  b")] {
            let mut claims = without("scope");
            claims["scp"] = scp;
            assert_eq!(read(claims).scope.as_deref(), Some("a b"));
        }
        assert_eq!(read(without("scope")).scope, None);
        assert_eq!(read(with("aud", json!("api"))).aud, ["api"]);
        assert_eq!(read(with("nbf", json!(NOW.seconds() + 60))).not_before, Some(NOW.plus(SKEW_MAX)));
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
            assert_eq!(refusal(&signed(&with_header("typ", json!(typ)), &claims())), None, "{typ}");
        }
        for word in ["Bearer", "access", "access_token", "DPoP"] {
            for claim in ["typ", "token_use", "token_type"] {
                assert_eq!(refusal(&signed(&header(), &with(claim, json!(word)))), None, "{claim} {word}");
            }
        }
    }

    #[test]
    fn a_claim_that_breaks_its_rule_is_refused_by_that_rule() {
        use Refused as R;
        let now = NOW.seconds();
        let table = [
            (with("iss", json!("https://op.example/")), R::Issuer),
            (with("iss", json!(["https://op.example"])), R::Issuer),
            (without("iss"), R::Issuer),
            (with("aud", json!("apiINVALID")), R::Audience),
            (with("aud", json!([])), R::Audience),
            (with("aud", json!(["api", 7])), R::Audience),
            (with("aud", json!(vec!["api"; 51])), R::Audience),
            (with("aud", json!({"api": 1})), R::Audience),
            (without("aud"), R::Audience),
            (with("iat", json!("1800000000")), R::IssuedAt),
            (with("iat", json!(now + 61)), R::IssuedAt),
            (with("iat", json!(-1)), R::IssuedAt),
            (without("exp"), R::Expiry),
            (with("exp", Value::Null), R::Expiry),
            (with("exp", json!(now)), R::Expiry),
            (with("exp", json!("soon")), R::Expiry),
            (with("exp", json!(1e300)), R::Expiry),
            (with("nbf", json!(now + 61)), R::Expiry),
            (with("nbf", json!("now")), R::Expiry),
            (with("sub", json!("")), R::Names),
            (with("sub", json!(7)), R::Names),
            (with("sub", Value::Null), R::Names),
            (with("sid", json!("")), R::Names),
            (with("sid", json!(["s-1"])), R::Names),
            (with("client_id", json!(1)), R::Names),
            (with("client_id", json!("")), R::Names),
            (with("jti", json!("j".repeat(256))), R::Names),
            (with("scope", json!(7)), R::Names),
            (with("scope", json!(["read write"])), R::Names),
            (with("scope", json!(["read", ""])), R::Names),
            (with("scope", json!("read \"all\"")), R::Names),
            (with("scope", json!("read\twrite")), R::Names),
            // Not an access token, whatever its typ.
            (with("events", json!({})), R::Type),
            (with("nonce", json!("n")), R::Type),
            (with("nonce", Value::Null), R::Type),
            (with("at_hash", json!("x")), R::Type),
            (with("c_hash", json!("x")), R::Type),
            (with("typ", json!("ID")), R::Type),
            (with("typ", json!("Refresh")), R::Type),
            (with("typ", json!("Offline")), R::Type),
            (with("typ", json!("Logout")), R::Type),
            (with("token_use", json!("id")), R::Type),
            (with("token_use", json!("refresh_token")), R::Type),
            (with("token_type", json!("urn:ietf:params:oauth:token-type:refresh_token")), R::Type),
            (with("token_use", json!(1)), R::Type),
        ];
        for (claims, why) in table {
            assert_eq!(refusal(&signed(&header(), &claims)), Some(why), "{claims}");
        }
        assert_eq!(
            judged_as(AccessTokenTyp::AtJwt, &signed(&header(), &without("aud")), &[], NOW).err(),
            None,
            "where no audience is asked for"
        );
    }

    #[test]
    fn a_header_that_breaks_its_rule_is_refused() {
        use Refused as R;
        for (header, why) in [
            (with_header("typ", json!("JWT")), R::Type),
            (json!({"alg": "ES256", "kid": KEY.kid}), R::Type),
            (with_header("typ", json!("logout+jwt")), R::Type),
            (with_header("typ", json!("secevent+jwt")), R::Type),
            (with_header("typ", json!("text/at+jwt")), R::Type),
            (with_header("typ", json!(1)), R::Type),
            (with_header("crit", json!(["b64"])), R::Critical),
            (with_header("crit", json!([])), R::Critical),
            (with_header("enc", json!("A256GCM")), R::Encrypted),
            (with_header("alg", json!("none")), R::Algorithm),
            (with_header("alg", json!("HS256")), R::Algorithm),
            (with_header("alg", json!("ES512")), R::Algorithm),
            (with_header("alg", json!("es256")), R::Algorithm),
            (with_header("alg", json!("RS256")), R::Signature),
            (with_header("alg", json!(["ES256"])), R::Malformed),
            (with_header("kid", json!(7)), R::Malformed),
            (with_header("kid", json!("never seen")), R::UnknownKey),
            (with_header("kid", json!(OTHER.kid)), R::Signature),
        ] {
            assert_eq!(refusal(&signed(&header, &claims())), Some(why), "{header}");
        }
        let attackers = with_header("jwk", serde_json::from_str(&OTHER.public_jwk).unwrap());
        assert_eq!(
            refusal(&signed_text(&attackers.to_string(), &claims().to_string(), &OTHER)),
            Some(R::Signature),
            "its own key counts for nothing"
        );
    }

    #[test]
    fn an_issuer_older_than_the_type_may_leave_it_out_but_may_not_name_another() {
        let judged = |header: &Value| judged_as(AccessTokenTyp::Jwt, &signed(header, &claims()), &["api"], NOW).err();
        for good in [header(), with_header("typ", json!("JWT")), json!({"alg": "ES256", "kid": KEY.kid})] {
            assert_eq!(judged(&good), None, "{good}");
        }
        for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", ""] {
            assert_eq!(judged(&with_header("typ", json!(typ))), Some(Refused::Type), "{typ}");
        }
    }

    #[test]
    fn a_secret_made_of_a_public_key_signs_nothing() {
        for secret in [KEY.public_jwk.as_bytes(), KEY.kid.as_bytes()] {
            let message =
                format!("{}.{}", BASE64URL.encode(with_header("alg", json!("HS256")).to_string()), BASE64URL.encode(claims().to_string()));
            let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap();
            assert_eq!(refusal(&format!("{message}.{mac}")), Some(Refused::Algorithm));
        }
        let unsigned = with_header("alg", json!("none"));
        assert_eq!(
            refusal(&format!("{}.{}.", BASE64URL.encode(unsigned.to_string()), BASE64URL.encode(claims().to_string()))),
            Some(Refused::Algorithm)
        );
    }

    #[test]
    fn what_is_not_three_parts_of_strict_json_is_refused() {
        let (header, claims) = (header().to_string(), claims().to_string());
        let twice = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
        for token in [
            String::new(),
            "a.b.c".to_owned(),
            format!("{}=", signed_text(&header, &claims, &KEY)),
            signed_text(&header, "[]", &KEY),
            signed_text(&header, &twice(&claims, r#""aud":"api""#), &KEY),
            signed_text(&twice(&header, r#""alg":"ES256""#), &claims, &KEY),
            signed_text(&header, &with("extra", json!("x".repeat(JWT_OCTETS_MAX))).to_string(), &KEY),
        ] {
            assert_eq!(refusal(&token), Some(Refused::Malformed), "{token:.60}");
        }
        assert_eq!(refusal("a.b.c.d.e"), Some(Refused::Encrypted));
    }

    #[test]
    fn what_is_no_jwt_has_no_end_of_its_own() {
        assert_eq!(own_end(&signed(&header(), &claims())), Some(NOW.plus(Duration::from_secs(300))));
        for endless in [signed(&header(), &without("exp")), signed(&header(), &with("exp", json!("soon"))), "opaque".to_owned()] {
            assert_eq!(own_end(&endless), None);
        }
    }

    #[test]
    fn an_answer_about_a_token_that_is_none_of_an_active_access_token_opens_nothing() {
        let answer = |more: Value| {
            let mut answer = json!({"active": true, "aud": "api", "sub": "alice"});
            answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            answered(&answer)
        };
        assert_eq!(answer(json!({})).unwrap().unwrap().expires_at, None);
        assert_eq!(answer(json!({"token_type": "Bearer", "iss": "https://op.example"})).map(|told| told.is_some()), Ok(true));
        assert_eq!(answer(json!({"active": false})), Ok(None));
        for (more, why) in [
            (json!({"active": "true"}), Refused::Malformed),
            (json!({"active": 1}), Refused::Malformed),
            (json!({"active": null}), Refused::Malformed),
            (json!({"token_type": "refresh_token"}), Refused::Type),
            (json!({"token_use": "refresh_token"}), Refused::Type),
            (json!({"typ": "Refresh"}), Refused::Type),
            (json!({"iss": "https://op.example/"}), Refused::Issuer),
            (json!({"iss": null}), Refused::Issuer),
            (json!({"aud": "other"}), Refused::Audience),
            (json!({"exp": NOW.seconds()}), Refused::Expiry),
            (json!({"exp": "never"}), Refused::Expiry),
            (json!({"sub": 7}), Refused::Names),
        ] {
            assert_eq!(answer(more.clone()), Err(why), "{more}");
        }
        for text in ["", "[]", "{}", r#"{"active":false,"active":true}"#] {
            let issuer = Issuer::parse("https://op.example").unwrap();
            assert_eq!(told(text.as_bytes(), &Rules { issuer: &issuer, audiences: &[], now: NOW }), Err(Refused::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_single_change_to_a_token_leaves_it_good(position in any::<prop::sample::Index>(), other in "[A-Za-z0-9_.-]") {
            let token = signed(&header(), &claims());
            let position = position.index(token.len());
            let (head, tail) = token.split_at(position);
            let changed = format!("{head}{other}{}", &tail[1..]);
            prop_assume!(changed != token);
            prop_assert!(judged(&changed).is_err());
        }

        #[test]
        fn whatever_is_shown_is_answered(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..7)) {
            prop_assert!(judged(&text).is_err());
            prop_assert!(judged(&parts.join(".")).is_err());
            let issuer = Issuer::parse("https://op.example").unwrap();
            let answered = told(text.as_bytes(), &Rules { issuer: &issuer, audiences: &[], now: NOW });
            prop_assert!(answered.is_err());
        }
    }
}
