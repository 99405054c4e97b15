//! A provider: a real HTTP server on loopback that publishes keys, and a pen that signs whatever a test wants signed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use logoutd::model::key::SigningAlg;
use logoutd::token::{NewKey, generate};
use serde_json::{Value, json};

use super::api::{Answer, Api};
use super::party::{Party, Reply};
use super::server::{ISSUER, Stage};

pub(crate) const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A provider of the issuer `main`, gone with this value.
pub(crate) struct Provider {
    /// What it publishes, and who asked for it.
    pub(crate) jwks: Party,
    pub(crate) key: NewKey,
    door: Api,
    now: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl Provider {
    /// Registers where the issuer's keys are, with whatever `more` says of the issuer. It publishes the server's own keys too.
    pub(crate) async fn open(stage: &Stage, more: Value) -> Self {
        let jwks = Party::open(&stage.server.base, "main", ISSUER, "").await;
        let clock = stage.server.clock.clone();
        let now = Box::new(move || clock.now().seconds());
        let provider = Self { jwks, key: generate(SigningAlg::Es256).unwrap(), door: stage.server.nobody(), now };
        let own = stage.server.nobody().get("/main/jwks").await.expect(200);
        provider.publish(own["keys"].as_array().unwrap().iter().cloned().chain([provider.public()]).collect());
        let mut terms = json!({"provider_jwks_uri": provider.jwks.uri()});
        terms.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        stage.admin.patch("/v1/issuers/main", terms).await.expect(200);
        provider
    }

    /// Its public key.
    pub(crate) fn public(&self) -> Value {
        serde_json::from_str(&self.key.public_jwk).unwrap()
    }

    /// From now on publishes these keys.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        self.jwks.always(Reply::Full { status: 200, headers: Vec::new(), body: json!({"keys": keys}).to_string() });
    }

    /// The time by the server's clock, in seconds.
    pub(crate) fn seconds(&self) -> i64 {
        (self.now)()
    }

    /// The claims of a good token with a `jti` of its own.
    pub(crate) fn claims(&self, client_id: &str, about: &Value) -> Value {
        let now = self.seconds();
        let jti = logoutd::seams::Entropy::os().token();
        let mut claims = json!({"iss": ISSUER, "aud": client_id, "iat": now, "exp": now + 120, "jti": jti, "events": {LOGOUT_EVENT: {}}});
        claims.as_object_mut().unwrap().extend(about.as_object().cloned().unwrap());
        claims
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "logout+jwt", "kid": self.key.kid})
    }

    /// These texts, signed with its key.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        sign_with(&self.key, header, claims)
    }

    /// A good token.
    pub(crate) fn token(&self, client_id: &str, about: &Value) -> String {
        self.sign(&self.header().to_string(), &self.claims(client_id, about).to_string())
    }

    /// The claims of a good access token of a client's, for five minutes; what is null in `more` is left out.
    pub(crate) fn access_claims(&self, client_id: &str, more: &Value) -> Value {
        let now = self.seconds();
        let jti = logoutd::seams::Entropy::os().token();
        let mut claims = json!({
            "iss": ISSUER, "aud": "api", "iat": now, "exp": now + 300, "jti": jti, "client_id": client_id, "scope": "read write",
        });
        let claims = claims.as_object_mut().unwrap();
        claims.extend(more.as_object().cloned().unwrap());
        claims.retain(|_, claim| !claim.is_null());
        Value::Object(claims.clone())
    }

    /// A good access token (RFC 9068).
    pub(crate) fn access_token(&self, client_id: &str, more: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": self.key.kid});
        self.sign(&header.to_string(), &self.access_claims(client_id, more).to_string())
    }

    /// Posts a token as any provider does.
    pub(crate) async fn post(&self, token: &str) -> Answer {
        self.door.form("/main/backchannel-logout", &[("logout_token", token)]).await
    }

    /// A good token that is taken, and handed back.
    pub(crate) async fn log_out(&self, client_id: &str, about: &Value) -> String {
        let token = self.token(client_id, about);
        let answer = self.post(&token).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{answer:?}");
        token
    }
}

/// These texts as a compact JWS, signed with an elliptic key.
pub(crate) fn sign_with(key: &NewKey, header: &str, claims: &str) -> String {
    let message = unsigned(header, claims);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_ec_der(&key.private), Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

/// What a signature is made over.
pub(crate) fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}
