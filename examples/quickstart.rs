//! One login at three relying parties, one logout, and what becomes of it: `cargo run --example quickstart`.
//!
//! Everything here is real but small: a logoutd with its database in a temporary directory, and relying parties that listen on ports of their own, fetch
//! its keys over HTTP and verify every logout token with another library. The wiki is healthy, the shop answers its first request with 503, and nothing
//! listens where the crm should be. The provider is this file: it talks to logoutd over its HTTP API alone.
#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a member it lacks")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Form, Router};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use logoutd::app::Server;
use logoutd::config::{Arguments, Config, Mode};
use logoutd::lifecycle::Signals;
use logoutd::seams::{Clock, Entropy};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Who the provider says it is: the `iss` of every token. Nothing needs to listen there.
const ISSUER: &str = "https://id.example.com";
const SID: &str = "alice-on-her-laptop";
const REFRESH_TOKEN: &str = "rt_tGzv3JOkF0XG5Qx2TlKWIA";
/// Nothing here takes long; whatever has not happened by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tokio::time::timeout(4 * PATIENCE, tell()).await.context("the story did not come to its end")?
}

async fn tell() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let admin_token = Entropy::os().token();
    let arguments = Arguments {
        database_url: Some(format!("sqlite://{}", directory.path().join("logoutd.db").display())),
        listen: Some("127.0.0.1:0".to_owned()),
        mode: Mode::Dev,
        ..Arguments::default()
    };
    let config = Config::load(&arguments, [("LOGOUTD_ADMIN_TOKEN".to_owned(), admin_token.clone())])?;
    let server = Server::start(config, Clock::system(), Entropy::os()).await?;
    let base = format!("http://{}", server.address());
    println!("logoutd serves on {base}, its database is a SQLite file.\n");

    println!("Registering one provider and three relying parties");
    let admin = Caller::new(&base, &admin_token)?;
    admin.ask(Method::POST, "/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["RS256"]})).await?;
    let (inbox, mut received) = mpsc::unbounded_channel();
    let mut parties = JoinSet::new();
    let wiki = RelyingParty::serve("wiki", Health::Healthy, &base, inbox.clone(), &mut parties).await?;
    let shop = RelyingParty::serve("shop", Health::FirstAnswer503, &base, inbox, &mut parties).await?;
    let (_silent, crm) = nobody_listens_here()?;
    for (client_id, address, about) in [("wiki", wiki, "healthy"), ("shop", shop, "flaky"), ("crm", crm, "dead")] {
        let uri = format!("http://{address}/backchannel-logout");
        println!("  {client_id:<4}  {uri}  ({about})");
        let client = json!({"backchannel_logout_uri": uri, "backchannel_logout_session_required": true});
        admin.ask(Method::PUT, &format!("/v1/issuers/main/clients/{client_id}"), client).await?;
    }
    let minted = admin.ask(Method::POST, "/v1/api-tokens", json!({"role": "provider", "issuer": "main"})).await?;
    let provider = Caller::new(&base, text(&minted, "token")?)?;

    println!("\nThe provider reports: alice signed in at all three; the shop got a refresh token");
    let participants =
        json!([{"client_id": "wiki"}, {"client_id": "shop", "refresh_token": {"token": REFRESH_TOKEN}}, {"client_id": "crm"}]);
    let session = json!({"sub": "alice", "participants": participants});
    provider.ask(Method::PUT, &format!("/v1/issuers/main/sessions/{SID}"), session).await?;
    ensure!(provider.is_active(REFRESH_TOKEN).await?, "the refresh token is good while alice is signed in");
    println!("  introspection: the refresh token is active");

    println!("\nThe provider posts: alice logged out (and waits up to 3 s for the relying parties)");
    let posted = Instant::now();
    let receipt = provider.log_out(json!({"target": {"sid": SID}, "reason": "user_logout"})).await?;
    ensure!(!provider.is_active(REFRESH_TOKEN).await?, "the refresh token died with the session");
    println!("  introspection: the refresh token is dead");

    println!("\nWhat the relying parties received, each verifying it with logoutd's published keys");
    let mut told = HashSet::new();
    while told.len() < 2 {
        let call = tokio::time::timeout(PATIENCE, received.recv()).await?.context("the relying parties live")?;
        println!("  after {:>4} ms  {call}", call.at.duration_since(posted).as_millis());
        if call.answered == StatusCode::OK {
            told.insert(call.party);
        }
    }

    let id = text(&receipt, "id")?;
    let receipt = provider.receipt_once_delivered(id, 2).await?;
    print_table(&receipt, &provider.deliveries(id).await?)?;

    server.stop().request();
    server.see_out(Signals::Unheard).await?;
    Ok(())
}

/// Somebody who calls logoutd's API with a token.
struct Caller {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Caller {
    fn new(base: &str, token: &str) -> anyhow::Result<Self> {
        Ok(Self { http: http_client()?, base: base.to_owned(), token: token.to_owned() })
    }

    /// Sends JSON, and takes any 2xx with its JSON.
    async fn ask(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        answer(self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token).json(&body), path).await
    }

    /// Posts a logout. Its key makes it safe to repeat; its preference is to hear at once what became of it.
    async fn log_out(&self, logout: Value) -> anyhow::Result<Value> {
        let path = "/v1/issuers/main/logouts";
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(&logout);
        answer(request.header("Idempotency-Key", "alice-clicked-once").header("Prefer", "wait=3"), path).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        answer(self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token), path).await
    }

    async fn is_active(&self, refresh_token: &str) -> anyhow::Result<bool> {
        let path = "/main/introspect";
        let body = format!("token={refresh_token}");
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = request.header("Content-Type", "application/x-www-form-urlencoded").body(body);
        answer(request, path).await?["active"].as_bool().context("an introspection answers active or not")
    }

    /// A relying party has answered before its answer is written down: asks until the receipt knows.
    async fn receipt_once_delivered(&self, id: &str, delivered: u64) -> anyhow::Result<Value> {
        let asking = async {
            let mut again = tokio::time::interval(Duration::from_millis(20));
            loop {
                again.tick().await;
                let receipt = self.get(&format!("/v1/issuers/main/logouts/{id}")).await?;
                if receipt["deliveries"]["delivered"] == delivered {
                    return Ok(receipt);
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.context("the receipt never knew")?
    }

    /// Each delivery of a logout, by client.
    async fn deliveries(&self, id: &str) -> anyhow::Result<Vec<Value>> {
        let page = self.get(&format!("/v1/issuers/main/logouts/{id}/deliveries")).await?;
        let mut deliveries = page["items"].as_array().context("deliveries are a list")?.clone();
        deliveries.sort_by_key(|delivery| (delivery["state"] == "pending", delivery["attempts"].as_u64()));
        Ok(deliveries)
    }
}

fn print_table(receipt: &Value, deliveries: &[Value]) -> anyhow::Result<()> {
    println!("\nThe receipt of logout {}", text(receipt, "id")?);
    println!("  client  state      attempts  told at / next attempt at");
    for delivery in deliveries {
        let attempts = delivery["attempts"].as_u64().context("attempts are counted")?;
        let when = delivery["delivered_at"].as_str().or(delivery["due_at"].as_str()).unwrap_or("-");
        println!("  {:<6}  {:<9}  {attempts:>8}  {when}", text(delivery, "client_id")?, text(delivery, "state")?);
    }
    let count = |what: &str| receipt["deliveries"][what].as_u64().unwrap_or_default();
    let retried = deliveries.iter().filter(|delivery| delivery["state"] == "delivered" && delivery["attempts"].as_u64() > Some(1)).count();
    ensure!((count("delivered"), count("pending"), retried) == (2, 1, 1), "two are told, one of them late, and one is not: {receipt}");
    println!(
        "\n{} session ended, {} refresh token revoked, 2 delivered (one after a retry), 1 pending: logoutd goes on trying for three days.",
        receipt["sessions_ended"], receipt["refresh_tokens_revoked"],
    );
    Ok(())
}

async fn answer(request: reqwest::RequestBuilder, path: &str) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let status = response.status();
    let body: Value = response.json().await?;
    ensure!(status.is_success(), "{path}: {status}: {body}");
    Ok(body)
}

fn text<'a>(value: &'a Value, member: &str) -> anyhow::Result<&'a str> {
    value[member].as_str().with_context(|| format!("{member} is a string in {value}"))
}

#[expect(clippy::disallowed_methods, reason = "providers and relying parties are other programs, with clients of their own")]
fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()
}

/// How a relying party behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Healthy,
    FirstAnswer503,
}

/// An application that alice is signed in at.
struct RelyingParty {
    client_id: &'static str,
    health: Health,
    jwks_uri: String,
    http: reqwest::Client,
    /// Every `jti` it was ever sent.
    seen: Mutex<HashSet<String>>,
    inbox: mpsc::UnboundedSender<Call>,
}

/// One call of a relying party's logout endpoint.
struct Call {
    party: &'static str,
    at: Instant,
    attempt: String,
    verified: Result<LogoutClaims, String>,
    answered: StatusCode,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = match &self.verified {
            Ok(claims) => format!("a valid logout token for sid {}", claims.sid),
            Err(why) => format!("a token it refuses: {why}"),
        };
        write!(f, "{:<4}  attempt {}: {token}; answered {}", self.party, self.attempt, self.answered.as_u16())
    }
}

#[derive(Deserialize)]
struct LogoutForm {
    logout_token: String,
}

#[derive(Deserialize)]
struct LogoutClaims {
    sid: String,
    jti: String,
    events: serde_json::Map<String, Value>,
    nonce: Option<Value>,
}

impl RelyingParty {
    /// Serves on a port of its own until the set is dropped.
    async fn serve(
        client_id: &'static str,
        health: Health,
        logoutd: &str,
        inbox: mpsc::UnboundedSender<Call>,
        parties: &mut JoinSet<()>,
    ) -> anyhow::Result<SocketAddr> {
        let jwks_uri = format!("{logoutd}/main/jwks");
        let this = Arc::new(Self { client_id, health, jwks_uri, http: http_client()?, seen: Mutex::default(), inbox });
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let router = Router::new().route("/backchannel-logout", post(backchannel_logout)).with_state(this);
        parties.spawn(async move { axum::serve(socket, router).await.expect("the relying party serves") });
        Ok(address)
    }

    /// Checks a logout token as BCL 2.6 asks, with nothing of logoutd's but its published keys.
    async fn verify(&self, token: &str) -> anyhow::Result<LogoutClaims> {
        let header = jsonwebtoken::decode_header(token)?;
        ensure!(header.typ.as_deref() == Some("logout+jwt"), "its typ is not logout+jwt");
        let keys: JwkSet = self.http.get(&self.jwks_uri).send().await?.json().await?;
        let key = keys.find(&header.kid.context("it names no key")?).context("its key is not published")?;
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_audience(&[self.client_id]);
        rules.set_required_spec_claims(&["iss", "aud", "exp"]);
        let claims = jsonwebtoken::decode::<LogoutClaims>(token, &DecodingKey::from_jwk(key)?, &rules)?.claims;
        ensure!(claims.events.contains_key("http://schemas.openid.net/event/backchannel-logout"), "it tells of no logout");
        ensure!(claims.nonce.is_none(), "it could be mistaken for an ID token");
        ensure!(claims.sid == SID, "it names an unknown session");
        ensure!(self.seen.lock().expect("nobody panics").insert(claims.jti.clone()), "it was used before");
        Ok(claims)
    }

    /// The flaky one breaks down once it has read the request.
    fn answer(&self, verified: &Result<LogoutClaims, String>) -> StatusCode {
        let first = self.seen.lock().expect("nobody panics").len() == 1;
        match verified {
            Err(_) => StatusCode::BAD_REQUEST,
            Ok(_) if first && self.health == Health::FirstAnswer503 => StatusCode::SERVICE_UNAVAILABLE,
            Ok(_) => StatusCode::OK,
        }
    }
}

async fn backchannel_logout(
    State(party): State<Arc<RelyingParty>>,
    headers: axum::http::HeaderMap,
    Form(form): Form<LogoutForm>,
) -> StatusCode {
    let at = Instant::now();
    let attempt = headers.get("logoutd-attempt").and_then(|value| value.to_str().ok()).unwrap_or("?").to_owned();
    let verified = party.verify(&form.logout_token).await.map_err(|error| error.to_string());
    let answered = party.answer(&verified);
    // The one who listens may have seen enough.
    drop(party.inbox.send(Call { party: party.client_id, at, attempt, verified, answered }));
    answered
}

/// An address where nothing listens, and nobody else can begin to while the socket is kept.
fn nobody_listens_here() -> anyhow::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
