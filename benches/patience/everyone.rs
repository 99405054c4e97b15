//! A logout of everybody, killed twice on the way: nothing is lost.
//!
//! `cargo bench --bench patience -- everyone [--sessions 20000] [--database-url URL]`, five parties, one refresh token a session. Fails where a token was good
//! after the answer, where somebody was not told, or where the receipt does not add up.
use std::time::Duration;

use crate::support::{Api, Kind, Parties, Service, micros};
use serde_json::{Value, json};

const CLIENTS: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];
/// How many tokens are asked for at once after the answer, the last to be reached first.
const ASKED: usize = 1000;

/// So many sessions, in a fresh SQLite file or in that database.
pub(crate) async fn run(sessions: usize, database_url: Option<String>) {
    let directory = tempfile::tempdir().unwrap();
    let url = database_url.unwrap_or_else(|| format!("sqlite://{}", directory.path().join("logoutd.db").display()));
    let parties = Parties::open();
    // Leases so short that what a killed process held is soon due again.
    let settings = [("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "10000"), ("LOGOUTD_DELIVERY__LEASE_MS", "30000")];
    let mut service = Service::start(directory.path(), &url, &settings).await;
    let clients: Vec<(&str, Kind)> = CLIENTS.iter().map(|name| (*name, Kind::Well)).collect();
    service.api().register(&parties, &clients, &json!({"max_in_flight": 64})).await;
    let begun = micros();
    service.api().report((0..sessions).map(session)).await;
    println!("{sessions} sessions reported in {:.1} s", seconds_since(begun));

    let asked = micros();
    let logout = json!({"target": {"everyone": true}, "reason": "compromise"});
    let receipt = service.api().post("/v1/issuers/main/logouts", logout).await;
    println!("accepted after {:.1} ms: {}", seconds_since(asked) * 1000.0, receipt["state"]);
    let path = format!("/v1/issuers/main/logouts/{}", receipt["id"].as_str().unwrap());
    let good = good_tokens(&service.api(), sessions).await;
    println!("{good} of {} tokens good after the answer", ASKED.min(sessions));
    assert_eq!(good, 0);

    let mut told = Told::new(sessions);
    until(&service.api(), &path, "a third is ended", |receipt| count(receipt, "/sessions_ended") >= sessions / 3).await;
    service = service.kill_and_start_again().await;
    println!("killed while expanding; {} told so far", told.take(&parties));
    until(&service.api(), &path, "half is told", |receipt| count(receipt, "/deliveries/delivered") >= sessions * CLIENTS.len() / 2).await;
    service = service.kill_and_start_again().await;
    println!("killed while delivering; {} told so far", told.take(&parties));
    let receipt = until(&service.api(), &path, "it is settled", |receipt| receipt["state"] == "settled").await;
    let seconds = seconds_since(asked);
    let arrivals = told.take(&parties);
    println!("settled after {seconds:.1} s: {receipt:#}");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = (sessions * CLIENTS.len()) as f64 / seconds;
    println!("{arrivals} arrivals, {} twice or more, {} never; {rate:.0} deliveries/s", told.repeated(), told.missing());
    println!("resident {} MiB; {:?}", service.resident_mib(), crate::support::surroundings());
    assert_eq!(told.missing(), 0, "somebody was not told");
    assert_eq!(count(&receipt, "/sessions_ended"), sessions);
    assert_eq!(count(&receipt, "/refresh_tokens_revoked"), sessions);
    assert_eq!(count(&receipt, "/deliveries/total"), sessions * CLIENTS.len());
    assert_eq!(count(&receipt, "/deliveries/delivered"), sessions * CLIENTS.len());
    assert_eq!(good_tokens(&service.api(), sessions).await, 0);
    println!("ok: everybody is told, nothing is lost");
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of an hour")]
fn seconds_since(begun: i64) -> f64 {
    (micros() - begun) as f64 / 1_000_000.0
}

fn session(n: usize) -> Value {
    let first = json!({"client_id": CLIENTS[0], "refresh_token": {"token": token(n)}});
    let others = CLIENTS.iter().skip(1).map(|client_id| json!({"client_id": client_id}));
    let participants: Vec<Value> = [first].into_iter().chain(others).collect();
    json!({"sid": format!("s-{n}"), "sub": format!("user-{n}"), "participants": participants})
}

fn token(n: usize) -> String {
    format!("rt-{n}-tGzv3JOkF0XG5Qx2TlKWIA")
}

/// How many of the last sessions' tokens are good.
async fn good_tokens(api: &Api, sessions: usize) -> usize {
    let mut good = 0;
    for n in (0..sessions).rev().take(ASKED) {
        good += usize::from(api.introspect(&token(n)).await);
    }
    good
}

fn count(receipt: &Value, pointer: &str) -> usize {
    receipt.pointer(pointer).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
}

async fn until(api: &Api, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = micros();
    loop {
        let receipt = api.get(path).await;
        if holds(&receipt) {
            return receipt;
        }
        assert!(micros() - begun < 2_400_000_000, "{what}: {receipt:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Who was told how often.
struct Told {
    of: Vec<Vec<u8>>,
}

impl Told {
    fn new(sessions: usize) -> Self {
        Self { of: vec![vec![0; sessions]; CLIENTS.len()] }
    }

    /// Takes what has arrived, and says how much that is in all.
    fn take(&mut self, parties: &Parties) -> usize {
        // What was written by the process that was killed may still be on its way through the pipe.
        std::thread::sleep(Duration::from_millis(300));
        for arrival in parties.taken() {
            let client = CLIENTS.iter().position(|name| *name == arrival.client_id).unwrap();
            let n: usize = arrival.sid.strip_prefix("s-").unwrap().parse().unwrap();
            self.of[client][n] = self.of[client][n].saturating_add(1);
        }
        self.of.iter().flatten().map(|times| usize::from(*times)).sum()
    }

    fn missing(&self) -> usize {
        self.of.iter().flatten().filter(|times| **times == 0).count()
    }

    fn repeated(&self) -> usize {
        self.of.iter().flatten().filter(|times| **times > 1).count()
    }
}
