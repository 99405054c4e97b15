//! What measurements share: the real service as a process, relying parties in a process of their own, and a caller.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-benches-0123456789abcdef";
const SEALING_KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA";
const ISSUER: &str = "https://id.example.com";

/// Microseconds since 1970: the one clock that processes of one machine share.
#[expect(clippy::disallowed_methods, reason = "no other clock is shared with another process")]
pub(crate) fn micros() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// The service, killed with this value.
pub(crate) struct Service {
    child: Child,
    directory: PathBuf,
    database_url: String,
    variables: Vec<(String, String)>,
    pub(crate) base: String,
}

impl Service {
    pub(crate) async fn start(directory: &Path, database_url: &str, variables: &[(&str, &str)]) -> Self {
        let variables: Vec<(String, String)> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::spawn(directory.to_owned(), database_url.to_owned(), variables).await
    }

    async fn spawn(directory: PathBuf, database_url: String, variables: Vec<(String, String)>) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = directory.join(format!("log-{}", micros()));
        let child = Command::new(env!("CARGO_BIN_EXE_logoutd"))
            .args(["serve", "--dev", "--listen", &address, "--database-url", &database_url])
            .env_clear()
            .env("LOGOUTD_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("LOGOUTD_SEALING_KEY", SEALING_KEY)
            .env("LOGOUTD_LOG__LEVEL", "warn")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let base = format!("http://{address}");
        healthy(&base, &log).await;
        Self { child, directory, database_url, variables, base }
    }

    /// SIGKILL, and another one over the same database.
    pub(crate) async fn kill_and_start_again(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (directory, url, variables) = (self.directory.clone(), self.database_url.clone(), std::mem::take(&mut self.variables));
        drop(self);
        Self::spawn(directory, url, variables).await
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    pub(crate) fn api(&self) -> Api {
        Api { http: http_client(), base: self.base.clone() }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[expect(clippy::disallowed_methods, reason = "a caller is not the server's way out")]
fn http_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Waits until it answers.
async fn healthy(base: &str, log: &Path) {
    let http = http_client();
    for _ in 0..1200 {
        if http.get(format!("{base}/healthz")).send().await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the service did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
}

/// A caller with the bootstrap token.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    base: String,
}

impl Api {
    pub(crate) async fn send(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(ADMIN_TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.send(reqwest::Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }

    pub(crate) async fn introspect(&self, token: &str) -> bool {
        let request = self.http.post(format!("{}/main/introspect", self.base)).bearer_auth(ADMIN_TOKEN);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(format!("token={token}"));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["active"] == true
    }

    /// The issuer `main`, and a client for each name at the parties' address.
    pub(crate) async fn register(&self, parties: &Parties, clients: &[(&str, Kind)], delivery: &Value) {
        self.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await;
        for (client_id, kind) in clients {
            let body = json!({
                "backchannel_logout_uri": format!("http://{}/{}/{client_id}", parties.address, kind.word()),
                "id_token_signed_response_alg": "ES256",
                "delivery": delivery,
            });
            self.send(reqwest::Method::PUT, &format!("/v1/issuers/main/clients/{client_id}"), Some(body)).await;
        }
    }

    /// Reports sessions, as many in one call as may be.
    pub(crate) async fn report(&self, sessions: impl Iterator<Item = Value>) {
        let mut page = Vec::new();
        for session in sessions {
            page.push(session);
            if page.len() == 500 {
                self.post("/v1/issuers/main/sessions", json!({"sessions": std::mem::take(&mut page)})).await;
            }
        }
        if !page.is_empty() {
            self.post("/v1/issuers/main/sessions", json!({ "sessions": page })).await;
        }
    }
}

/// How a relying party behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers 200 at once.
    Well,
    /// Reads and never answers.
    Silent,
    /// One octet of an answer each 100 ms, for ever.
    Dripping,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Silent => "silent",
            Self::Dripping => "dripping",
        }
    }
}

/// One logout token as it arrived: when, at which client, for which `sid`.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: i64,
    pub(crate) client_id: String,
    pub(crate) sid: String,
}

/// All relying parties, in one process of their own: this program started again as `parties`.
pub(crate) struct Parties {
    child: Child,
    pub(crate) address: String,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Parties {
    pub(crate) fn open() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program).arg("parties").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap();
        let arrivals: Arc<Mutex<Vec<Arrival>>> = Arc::default();
        let into = Arc::clone(&arrivals);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut words = line.split(' ');
                let (Some(at), Some(client_id), Some(sid)) = (words.next(), words.next(), words.next()) else { continue };
                let arrival = Arrival { at: at.parse().unwrap(), client_id: client_id.to_owned(), sid: sid.to_owned() };
                into.lock().unwrap().push(arrival);
            }
        });
        Self { child, address, arrivals }
    }

    /// What has arrived since the last time.
    pub(crate) fn taken(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.arrivals.lock().unwrap())
    }
}

impl Drop for Parties {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The process of the relying parties: tells its address, then a line for every logout token.
pub(crate) fn be_parties() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.unwrap();
                    drop(stream.set_nodelay(true));
                    connections.spawn(async move { drop(answer(stream).await) });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
}

/// Answers one connection, request by request.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut octets = Vec::with_capacity(4096);
    loop {
        let head = loop {
            if let Some(end) = octets.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut octets).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&octets[..head]).into_owned();
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let end = head + length.unwrap_or(0);
        while octets.len() < end {
            if stream.read_buf(&mut octets).await? == 0 {
                return Ok(());
            }
        }
        let path: Vec<&str> = text.split(' ').nth(1).unwrap_or_default().split('/').collect();
        let (word, client_id) = (path.get(1).copied().unwrap_or_default(), path.get(2).copied().unwrap_or_default());
        let body = String::from_utf8_lossy(&octets[head..end]).into_owned();
        let line = format!("{} {client_id} {}\n", micros(), sid_of(&body));
        std::io::stdout().lock().write_all(line.as_bytes())?;
        octets.drain(..end);
        match word {
            "well" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?,
            "dripping" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await?;
                loop {
                    stream.write_all(b".").await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            // Until the caller goes away.
            _ => while stream.read_buf(&mut octets).await? > 0 {},
        }
    }
}

/// The `sid` of a logout token, unverified: who measures needs not doubt.
fn sid_of(body: &str) -> String {
    let claims = body.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value = claims.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or(Value::Null);
    claims["sid"].as_str().unwrap_or("-").to_owned()
}

/// The value below which so many of a hundred lie.
pub(crate) fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a figure depends on.
pub(crate) fn surroundings() -> BTreeMap<&'static str, String> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from).to_string();
    BTreeMap::from([("load average", load), ("cores", cores)])
}
