//! A relying party: a real HTTP server on loopback that answers by a script, records every request, and verifies logout tokens with another library.
//!
//! It speaks HTTP by hand, so that it sees the octets of a request and can break off wherever it likes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::api::http_client;
use super::until;

/// The event that makes a token a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// How one request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status without a body.
    Status(u16),
    /// A status with headers and a body.
    Full { status: u16, headers: Vec<(String, String)>, body: String },
    /// The request is read and never answered; the connection stays open.
    Hang,
    /// The request is read and the connection closed.
    Drop,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The logout token, verified at its arrival; or why it is not one.
    pub(crate) verified: Result<Token, String>,
}

/// A logout token that was verified.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl Call {
    /// A header's value, or the empty string.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// The parameters of its form.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// Its token, which must be good.
    #[track_caller]
    pub(crate) fn token(&self) -> &Token {
        self.verified.as_ref().unwrap()
    }

    /// A claim of its token; null where it has none.
    #[track_caller]
    pub(crate) fn claim(&self, name: &str) -> Value {
        self.token().claims[name].clone()
    }

    /// Which attempt of its delivery it is.
    pub(crate) fn attempt(&self) -> u32 {
        self.header("logoutd-attempt").parse().unwrap()
    }
}

/// What its connections share.
struct Shared {
    client_id: String,
    issuer: String,
    jwks_uri: Mutex<String>,
    keys: Mutex<Option<JwkSet>>,
    http: reqwest::Client,
    calls: Mutex<Vec<Call>>,
    script: Mutex<VecDeque<Reply>>,
    otherwise: Mutex<Reply>,
    /// Whose logouts are answered otherwise, by `sid`.
    about: Mutex<Vec<(String, Reply)>>,
}

/// A relying party that is gone with this value.
pub(crate) struct Party {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Party {
    /// Listens for the logouts of one client, and verifies them with the keys that `base` publishes for `iss`.
    pub(crate) async fn open(base: &str, iss: &str, issuer: &str, client_id: &str) -> Self {
        let shared = Arc::new(Shared {
            client_id: client_id.to_owned(),
            issuer: issuer.to_owned(),
            jwks_uri: Mutex::new(format!("{base}/{iss}/jwks")),
            keys: Mutex::new(None),
            http: http_client(),
            calls: Mutex::default(),
            script: Mutex::default(),
            otherwise: Mutex::new(Reply::Status(200)),
            about: Mutex::default(),
        });
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(socket, Arc::clone(&shared)));
        Self { shared, address, _tasks: tasks }
    }

    /// Where it wants to be told.
    pub(crate) fn uri(&self) -> String {
        format!("http://{}/backchannel-logout", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on fetches keys there: the server is another one.
    pub(crate) fn trust(&self, jwks_uri: &str) {
        *self.shared.jwks_uri.lock().unwrap() = jwks_uri.to_owned();
        *self.shared.keys.lock().unwrap() = None;
    }

    /// Answers the next requests so, one by one, before it answers as always.
    pub(crate) fn answers(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.script.lock().unwrap().extend(replies);
    }

    /// From now on answers so where no script is left.
    pub(crate) fn always(&self, reply: Reply) {
        *self.shared.otherwise.lock().unwrap() = reply;
    }

    /// From now on answers so whatever is about this `sid`.
    pub(crate) fn answers_about(&self, sid: &str, reply: Reply) {
        self.shared.about.lock().unwrap().push((sid.to_owned(), reply));
    }

    /// Everything it received so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// Waits until it received this many requests, and hands them all back.
    pub(crate) async fn received(&self, count: usize) -> Vec<Call> {
        until(&format!("{} received {count} requests", self.shared.client_id), || async {
            let calls = self.calls();
            (calls.len() >= count).then_some(calls)
        })
        .await
    }

    /// Waits for the only request it received.
    pub(crate) async fn only_call(&self) -> Call {
        let calls = self.received(1).await;
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.into_iter().next().unwrap()
    }
}

async fn listen(socket: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        connections.spawn(converse(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the requests of one connection, one after another.
async fn converse(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let reply = record(request, &shared).await;
        let answer = match reply {
            Reply::Status(status) => answer(status, &[], ""),
            Reply::Full { status, headers, body } => answer(status, &headers, &body),
            Reply::Hang => std::future::pending().await,
            Reply::Drop => return,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(status: u16, headers: &[(String, String)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status} So\r\n{headers}{length}\r\n{body}")
}

/// A request before anybody looked at its token.
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// One request; none at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => break end,
            None => more(stream, buffer).await?,
        }
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
    let line = lines.next()?;
    let headers: Vec<_> =
        lines.map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())).unwrap()).collect();
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    Some(Request { line, headers, body: buffer.drain(..length).collect() })
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}

/// Verifies and records a request, and looks up how it is answered.
async fn record(request: Request, shared: &Shared) -> Reply {
    let Request { line, headers, body } = request;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let token = std::str::from_utf8(&body).ok().and_then(|body| body.strip_prefix("logout_token="));
    let verified = match token {
        Some(token) => verify(token, shared).await,
        None => Err("the body is no logout token".to_owned()),
    };
    let sid = verified.as_ref().ok().and_then(|token| token.claims["sid"].as_str());
    let about = shared.about.lock().unwrap().iter().find(|(about, _)| Some(about.as_str()) == sid).map(|(_, reply)| reply.clone());
    shared.calls.lock().unwrap().push(Call { method, path, headers, body, verified });
    if let Some(reply) = about {
        return reply;
    }
    let scripted = shared.script.lock().unwrap().pop_front();
    scripted.unwrap_or_else(|| shared.otherwise.lock().unwrap().clone())
}

/// Checks a logout token as BCL 2.6 asks, with nothing of logoutd's but its published keys.
async fn verify(token: &str, shared: &Shared) -> Result<Token, String> {
    let said = |error: jsonwebtoken::errors::Error| error.to_string();
    let header = jsonwebtoken::decode_header(token).map_err(said)?;
    let kid = header.kid.as_deref().ok_or("it names no key")?;
    let keys = keys_with(kid, shared).await?;
    let key = keys.find(kid).ok_or("its key is not published")?;
    let mut rules = Validation::new(header.alg);
    rules.set_issuer(&[&shared.issuer]);
    rules.set_audience(&[&shared.client_id]);
    rules.set_required_spec_claims(&["iss", "aud", "exp"]);
    let decoding = DecodingKey::from_jwk(key).map_err(said)?;
    let claims = jsonwebtoken::decode::<Value>(token, &decoding, &rules).map_err(said)?.claims;
    let is_logout = claims["events"][LOGOUT_EVENT].is_object();
    let about = claims["sub"].is_string() || claims["sid"].is_string();
    match (is_logout, about, claims.get("nonce")) {
        (false, _, _) => Err("it tells of no logout".to_owned()),
        (_, false, _) => Err("it is about nobody".to_owned()),
        (_, _, Some(_)) => Err("it could be mistaken for an ID token".to_owned()),
        (true, true, None) => Ok(Token { header: header_of(token), claims }),
    }
}

/// The header as it stands in the token, with every member it has.
fn header_of(token: &str) -> Value {
    use base64::Engine as _;
    let first = token.split('.').next().unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(first).unwrap()).unwrap()
}

/// The published keys, fetched again when this one is not among those it knows.
async fn keys_with(kid: &str, shared: &Shared) -> Result<JwkSet, String> {
    let known = shared.keys.lock().unwrap().clone();
    match known {
        Some(keys) if keys.find(kid).is_some() => Ok(keys),
        Some(_) | None => {
            let uri = shared.jwks_uri.lock().unwrap().clone();
            let said = |error: reqwest::Error| error.to_string();
            let keys: JwkSet = shared.http.get(uri).send().await.map_err(said)?.json().await.map_err(said)?;
            *shared.keys.lock().unwrap() = Some(keys.clone());
            Ok(keys)
        }
    }
}

/// A relying party that answers its only request when it is told to, and is gone with the set.
pub(crate) async fn slow_party(arrived: Arc<Notify>, answer: Arc<Notify>) -> (String, JoinSet<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/logout", socket.local_addr().unwrap());
    let mut party = JoinSet::new();
    party.spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        drop(socket);
        let mut request = vec![0; 16 * 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        arrived.notify_one();
        answer.notified().await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    });
    (uri, party)
}
