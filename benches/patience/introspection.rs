//! What it costs to ask whether a token is good, beside the cheapest JSON answer of the same server in the same run.
//!
//! Two measures, each in rounds that alternate between `GET /healthz` and `POST /{iss}/introspect`: answers per second that so many connections draw
//! when each asks again as soon as it is answered; and latencies at a steady rate of questions, counted from the moment each was meant to be asked.
//! Tokens are asked about at random; one in a hundred is not registered.
//!
//! `cargo bench --bench patience -- introspection [--tokens 100000] [--connections 32] [--rounds 5] [--seconds 4] [--database-url URL]`
use std::sync::Arc;
use std::time::Duration;

use logoutd::token::digest_of_token;
use serde_json::json;
use sqlx::Connection as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{ADMIN_TOKEN, Api, Service, median, micros, percentile, surroundings};

/// How many tokens each session has.
const PER_SESSION: usize = 100;
/// How much of what it can do it is asked for in the steady measure, in percent.
const STEADY_PERCENT: usize = 40;

struct Settings {
    tokens: usize,
    connections: usize,
    rounds: usize,
    seconds: usize,
}

/// Takes its settings from the arguments.
pub(crate) async fn run(number: impl Fn(&str, usize) -> usize, database_url: Option<String>) {
    let settings = Settings {
        tokens: number("--tokens", 100_000),
        connections: number("--connections", 32),
        rounds: number("--rounds", 5),
        seconds: number("--seconds", 4),
    };
    let directory = tempfile::tempdir().unwrap();
    let url = database_url.unwrap_or_else(|| format!("sqlite://{}", directory.path().join("logoutd.db").display()));
    let service = Service::start(directory.path(), &url, &[]).await;
    fill(&service.api(), &url, settings.tokens).await;
    measure(&service, &settings).await;
    println!("resident: {} MiB", service.resident_mib());
    println!("{:?}", surroundings());
}

/// Sessions by reports; their tokens are written beside the service, a thousand a statement, since asking is measured here and not registering.
async fn fill(api: &Api, database_url: &str, tokens: usize) {
    api.post("/v1/issuers", json!({"id": "main", "issuer": "https://id.example.com", "signing_algs": ["ES256"]})).await;
    api.send(reqwest::Method::PUT, "/v1/issuers/main/clients/wiki", Some(json!({}))).await;
    let began = micros();
    let sessions = tokens.div_ceil(PER_SESSION);
    api.report((0..sessions).map(|n| json!({"sid": format!("s-{n}"), "sub": format!("user-{n}")}))).await;
    let mut database = Database::open(database_url).await;
    let now = micros() / 1000;
    for first in (0..tokens).step_by(1000) {
        let (mut grants, mut rows) = (Vec::with_capacity(1000), Vec::with_capacity(1000));
        for n in first..tokens.min(first + 1000) {
            let (sid, digest) = (n / PER_SESSION, digest_of_token(token(n).as_bytes()));
            grants.push(format!(
                "('{n:026}', 'main', 'wiki', 'user-{sid}', (SELECT id FROM sessions WHERE issuer_id = 'main' AND sid = 's-{sid}'), FALSE, {now}, {now})"
            ));
            rows.push(format!("('{n:026}', 'main', 'sha256:{digest}', '{n:026}', {now}, {}, {now})", now + 86_400_000));
        }
        let (grants, rows) = (grants.join(", "), rows.join(", "));
        database
            .run(format!(
                "INSERT INTO grants (id, issuer_id, client_id, sub, session_id, offline, begun_at, created_at) VALUES {grants};
                 INSERT INTO refresh_tokens (id, issuer_id, name, grant_id, issued_at, expires_at, created_at) VALUES {rows}"
            ))
            .await;
    }
    let spent = (micros() - began) / 1_000_000;
    println!("{tokens} refresh tokens of {sessions} sessions written in {spent} s");
    assert!(api.introspect(&token(0)).await && api.introspect(&token(tokens - 1)).await && !api.introspect("rt-nobody").await);
}

/// A connection beside the service.
enum Database {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Database {
    async fn open(url: &str) -> Self {
        if url.starts_with("sqlite:") {
            Self::Sqlite(sqlx::SqliteConnection::connect(url).await.unwrap())
        } else {
            Self::Postgres(sqlx::PgConnection::connect(url).await.unwrap())
        }
    }

    async fn run(&mut self, sql: String) {
        let sql = sqlx::AssertSqlSafe(sql);
        match self {
            Self::Sqlite(connection) => drop(sqlx::raw_sql(sql).execute(connection).await.unwrap()),
            Self::Postgres(connection) => drop(sqlx::raw_sql(sql).execute(connection).await.unwrap()),
        }
    }
}

fn token(n: usize) -> String {
    format!("rt-{n:012}-0123456789abcdef0123456789abcdef")
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Healthz,
    Introspect,
}

impl Question {
    fn request(self, n: usize, tokens: usize) -> Vec<u8> {
        match self {
            Self::Healthz => b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            Self::Introspect => {
                // Spread over all of them by a multiplication; now and then one that does not exist.
                let at = n.wrapping_mul(2_654_435_761) % (tokens + tokens / 100 + 1);
                let body = format!("token={}", token(at));
                let length = body.len();
                format!(
                    "POST /main/introspect HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\
                     content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{body}"
                )
                .into_bytes()
            }
        }
    }
}

async fn measure(service: &Service, settings: &Settings) {
    let address = service.base.trim_start_matches("http://").to_owned();
    println!("{:>5}  {:>12}  {:>14}  {:>6}", "round", "healthz /s", "introspect /s", "ratio");
    let (mut ratios, mut slowest) = (Vec::new(), usize::MAX);
    for round in 0..=settings.rounds {
        let mut rates = Vec::new();
        for question in [Question::Healthz, Question::Introspect] {
            rates.push(answers(&address, question, settings).await / settings.seconds);
        }
        // The first round warms up.
        if round > 0 {
            println!("{round:>5}  {:>12}  {:>14}  {:>6.2}", rates[0], rates[1], ratio(rates[1], rates[0]));
            ratios.push(ratio(rates[1], rates[0]));
            slowest = slowest.min(rates[1]);
        }
    }
    println!("median ratio of answers per second: {:.2}", median(ratios));
    let rate = slowest * STEADY_PERCENT / 100;
    println!("at {rate} questions a second, from when each was meant to be asked:");
    println!("{:>5}  {:>24}  {:>24}", "round", "healthz p50 / p99 µs", "introspect p50 / p99 µs");
    for round in 1..=settings.rounds {
        let mut shown = Vec::new();
        for question in [Question::Healthz, Question::Introspect] {
            let latencies = steady(&address, question, rate, settings).await;
            shown.push(format!("{} / {}", percentile(&latencies, 50), percentile(&latencies, 99)));
        }
        println!("{round:>5}  {:>24}  {:>24}", shown[0], shown[1]);
    }
}

#[expect(clippy::cast_precision_loss, reason = "answers of a few seconds")]
fn ratio(one: usize, other: usize) -> f64 {
    one as f64 / other as f64
}

/// How many answers all connections draw together.
async fn answers(address: &str, question: Question, settings: &Settings) -> usize {
    let until = micros() + i64::try_from(settings.seconds).unwrap() * 1_000_000;
    let mut all = JoinSet::new();
    for lane in 0..settings.connections {
        let (mut connection, tokens, step) = (Connection::open(address).await, settings.tokens, settings.connections);
        all.spawn(async move {
            let mut n = 0;
            while micros() < until {
                connection.ask(&question.request(lane + n * step, tokens)).await;
                n += 1;
            }
            n
        });
    }
    all.join_all().await.into_iter().sum()
}

/// Latencies in microseconds: each connection asks at its own turns, whatever became of the question before.
async fn steady(address: &str, question: Question, rate: usize, settings: &Settings) -> Vec<i64> {
    let begin = micros() + 100_000;
    let count = rate * settings.seconds / settings.connections;
    let pause = Arc::new(1_000_000 * settings.connections / rate.max(1));
    let mut all = JoinSet::new();
    for lane in 0..settings.connections {
        let (mut connection, tokens, step) = (Connection::open(address).await, settings.tokens, settings.connections);
        let pause = Arc::clone(&pause);
        all.spawn(async move {
            let mut latencies = Vec::with_capacity(count);
            for n in 0..count {
                let meant = begin + i64::try_from(n * *pause + lane * *pause / step).unwrap();
                tokio::time::sleep(Duration::from_micros(u64::try_from(meant - micros()).unwrap_or(0))).await;
                connection.ask(&question.request(lane + n * step, tokens)).await;
                latencies.push(micros() - meant);
            }
            latencies
        });
    }
    let mut latencies: Vec<i64> = all.join_all().await.into_iter().flatten().collect();
    latencies.sort_unstable();
    latencies
}

/// A connection that is kept, and reads no more of an answer than it must.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    async fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        loop {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the service hung up");
            if let Some(whole) = whole_length(&self.buffer)
                && self.buffer.len() >= whole
            {
                assert!(self.buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.buffer));
                return;
            }
        }
    }
}

/// Octets of an answer whose head has arrived.
fn whole_length(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).unwrap().to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    Some(head + length.trim().parse::<usize>().unwrap())
}
