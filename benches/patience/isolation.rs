//! What a dead relying party and a dripping one cost the others.
//!
//! Two services with the same load: to one of them, a hundred thousand deliveries wait for a party that never answers, and as many as it takes for one
//! that drips octets. Rounds alternate between the two. Latency is counted from the moment a logout was meant to be posted to its arrival at each of
//! five healthy parties. Goal: p99 at most 1.2 times as long.
//!
//! `cargo bench --bench patience -- isolation [--waiting 100000] [--rounds 5] [--seconds 10] [--rate 40]`
use std::collections::HashMap;
use std::time::Duration;

use crate::support::{Api, Kind, Parties, Service, median, micros, percentile};
use serde_json::json;
use tokio::task::JoinSet;

const HEALTHY: [&str; 5] = ["h0", "h1", "h2", "h3", "h4"];

struct Settings {
    waiting: usize,
    rounds: usize,
    seconds: usize,
    rate: usize,
}

/// Takes its settings from the arguments.
pub(crate) async fn run(number: impl Fn(&str, usize) -> usize) {
    let settings = Settings {
        waiting: number("--waiting", 100_000),
        rounds: number("--rounds", 5),
        seconds: number("--seconds", 10),
        rate: number("--rate", 40),
    };
    measure(&settings).await;
}

async fn measure(settings: &Settings) {
    let parties = Parties::open();
    let (calm, burdened) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clients: Vec<(&str, Kind)> =
        HEALTHY.iter().map(|name| (*name, Kind::Well)).chain([("dead", Kind::Silent), ("drip", Kind::Dripping)]).collect();
    let mut services = Vec::new();
    for directory in [&calm, &burdened] {
        let url = format!("sqlite://{}", directory.path().join("logoutd.db").display());
        let service = Service::start(directory.path(), &url, &[]).await;
        service.api().register(&parties, &clients, &json!({})).await;
        let sessions = (0..settings.rounds * settings.rate * settings.seconds + settings.rate).map(|n| {
            let participants: Vec<_> = HEALTHY.iter().map(|client_id| json!({"client_id": client_id})).collect();
            json!({"sid": format!("s-{n}"), "sub": format!("user-{n}"), "participants": participants})
        });
        service.api().report(sessions).await;
        services.push(service);
    }
    burden(&services[1].api(), settings.waiting).await;
    println!("waiting for the dead party {}, for the dripping one {}", settings.waiting, settings.waiting / 10);
    println!("{:>5}  {:>22}  {:>22}  {:>6}", "round", "calm p50 / p99 ms", "burdened p50 / p99 ms", "ratio");
    let mut ratios = Vec::new();
    for round in 0..settings.rounds {
        let mut p99 = Vec::new();
        let mut shown = Vec::new();
        for service in &services {
            let latencies = drive(&service.api(), &parties, round, settings).await;
            let (middle, last) = (percentile(&latencies, 50), percentile(&latencies, 99));
            shown.push(format!("{:.1} / {:.1}", ms(middle), ms(last)));
            p99.push(ms(last));
        }
        let ratio = p99[1] / p99[0];
        ratios.push(ratio);
        println!("{round:>5}  {:>22}  {:>22}  {ratio:>6.2}", shown[0], shown[1]);
    }
    let lane = services[1].api().get("/v1/issuers/main/clients?order=oldest&limit=2").await;
    println!(
        "lanes: {}",
        lane["items"]
            .as_array()
            .map(|items| items.iter().map(|one| one["lane"].to_string()).collect::<Vec<_>>().join("\n       "))
            .unwrap_or_default()
    );
    println!("resident: calm {} MiB, burdened {} MiB", services[0].resident_mib(), services[1].resident_mib());
    println!("{:?}", crate::support::surroundings());
    println!("median ratio of p99: {:.2} (goal: at most 1.2)", median(ratios));
}

fn ms(micros: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a minute")]
    let micros = micros as f64;
    micros / 1000.0
}

/// Deliveries that wait for parties that will not take them.
async fn burden(api: &Api, waiting: usize) {
    let sessions = (0..waiting).map(|n| {
        let dripping = (n % 10 == 0).then(|| json!({"client_id": "drip"}));
        let participants: Vec<_> = [json!({"client_id": "dead"})].into_iter().chain(dripping).collect();
        json!({"sid": format!("w-{n}"), "sub": format!("waiting-{n}"), "participants": participants})
    });
    api.report(sessions).await;
    for client_id in ["dead", "drip"] {
        let receipt = api.post("/v1/issuers/main/logouts", json!({"target": {"client_id": client_id}, "reason": "admin"})).await;
        let path = format!("/v1/issuers/main/logouts/{}", receipt["id"].as_str().unwrap());
        while api.get(&path).await["state"] == "expanding" {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Posts logouts at a steady rate, whatever becomes of those before, and waits for their arrivals.
async fn drive(api: &Api, parties: &Parties, round: usize, settings: &Settings) -> Vec<i64> {
    let (count, pause) = (settings.rate * settings.seconds, 1_000_000 / i64::try_from(settings.rate).unwrap());
    drop(parties.taken());
    let begin = micros() + 200_000;
    let mut posts = JoinSet::new();
    let mut meant = HashMap::new();
    for n in 0..count {
        let (sid, at) = (format!("s-{}", round * count + n), begin + i64::try_from(n).unwrap() * pause);
        meant.insert(sid.clone(), at);
        let api = api.clone();
        posts.spawn(async move {
            tokio::time::sleep(Duration::from_micros(u64::try_from(at - micros()).unwrap_or(0))).await;
            api.post("/v1/issuers/main/logouts", json!({"target": {"sid": sid}, "reason": "user_logout"})).await;
        });
    }
    while let Some(posted) = posts.join_next().await {
        posted.unwrap();
    }
    let mut latencies = Vec::new();
    for _ in 0..600 {
        for arrival in parties.taken() {
            if let Some(at) = meant.get(&arrival.sid) {
                latencies.push(arrival.at - at);
            }
        }
        if latencies.len() >= count * HEALTHY.len() {
            latencies.sort_unstable();
            return latencies;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} of {} logout tokens arrived", latencies.len(), count * HEALTHY.len());
}
