//! What is measured: that it adds up at every instant, that it says what it is, and that nobody's name becomes a label.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use logoutd::config::{Arguments, Config, Mode};
use logoutd::model::alarm::AlarmKind;
use logoutd::model::attempt::OutcomeClass;
use logoutd::model::certificate::CertificateKind;
use logoutd::model::delivery::{Class, DeliveryState, SettledReason};
use logoutd::model::token::TokenEventKind;
use logoutd::model::trigger::Reason;
use logoutd::store::Keep;
use logoutd::upkeep::Tools;
use logoutd::upkeep::retention;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::api::Api;
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Party, Reply};
use crate::harness::process::Process;
use crate::harness::server::{DAY, ISSUER, Server, Stage};
use crate::harness::until;

/// One line of an exposition.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Every sample; a line that is none fails the test.
fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| sample(line).unwrap_or_else(|| panic!("this is no sample: {line}"))).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
    let mut found = BTreeMap::new();
    // No value here holds a comma beside a quote.
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once("=\"")?;
        found.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Some(Sample { name: name.to_owned(), labels: found, value: value.parse().ok()? })
}

async fn scrape(admin: &Api) -> Vec<Sample> {
    let answer = admin.get("/metrics").await;
    assert_eq!(answer.status, 200);
    samples(&answer.text)
}

fn value(samples: &[Sample], name: &str) -> f64 {
    samples.iter().find(|sample| sample.name == name && sample.labels.is_empty()).unwrap_or_else(|| panic!("there is no {name}")).value
}

fn sum(samples: &[Sample], name: &str) -> f64 {
    samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

/// What every scrape must say: enqueued = delivered + rejected + expired + superseded + cancelled + unreachable + pending + forgotten.
#[track_caller]
fn adds_up(samples: &[Sample]) -> (f64, f64) {
    let (enqueued, forgotten) = (value(samples, "logoutd_deliveries_enqueued"), value(samples, "logoutd_deliveries_forgotten"));
    let states = sum(samples, "logoutd_deliveries");
    assert!((enqueued - forgotten - states).abs() < 0.5, "{enqueued} is not {states} and {forgotten}");
    assert!(value(samples, "logoutd_deliveries_unaccounted").abs() < 0.5, "{enqueued} {states} {forgotten}");
    (enqueued, forgotten)
}

const OFTEN: (&str, &str) = ("LOGOUTD_METRICS__CENSUS_MS", "20");

/// Parties that take logouts, refuse them, are away, or answer at the second attempt.
async fn parties(stage: &Stage) -> Vec<Party> {
    let soon = json!({"delivery": {"confirm_rejections": 0}});
    let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", soon).await);
    let (mail, gone) = (stage.party("mail", json!({})).await, stage.party("gone", json!({})).await);
    shop.always(Reply::Status(400));
    mail.answers((0..20).map(|_| Reply::Status(503)));
    gone.always(Reply::Drop);
    vec![wiki, shop, mail, gone]
}

async fn log_in_and_out(stage: &Stage, number: usize) {
    let (sid, sub) = (format!("sid-{number}"), format!("person-{number}"));
    stage.login(&sid, &sub, &["wiki", "shop", "mail", "gone", "stranger"]).await;
    stage.logout(if number.is_multiple_of(2) { json!({ "sid": sid }) } else { json!({ "sub": sub }) }).await;
}

async fn sweep(tools: &Tools) {
    while retention::step(tools).await.unwrap() == logoutd::upkeep::Step::More {}
}

on_both_engines! {
    async fn what_is_settled_as_it_is_written_is_counted_and_no_series_is_there_that_can_never_count(database) {
        // A process of its own: the counters of this one are everybody's.
        let mut process = Process::serve(database, &[]);
        let admin = process.admin().await;
        admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
        admin.put("/v1/issuers/main/clients/mute", json!({"id_token_signed_response_alg": "ES256"})).await.expect(201);
        let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let settled = async |state: &str, reason: &str| {
            let samples = scrape(&admin).await;
            let is_it = |sample: &&Sample| {
                sample.name == "logoutd_deliveries_settled_total" && sample.labels["state"] == state && sample.labels["reason"] == reason
            };
            samples.iter().find(is_it).map(|sample| sample.value)
        };
        for (state, reason) in [("rejected", "refused"), ("expired", "horizon"), ("unreachable", "no_uri"), ("unreachable", "client_not_registered")] {
            assert_eq!(settled(state, reason).await, Some(0.0), "{state} {reason}");
        }
        for (state, reason) in [("rejected", "accepted"), ("rejected", "client_not_registered"), ("rejected", "horizon")] {
            assert_eq!(settled(state, reason).await, None, "{state} {reason}");
        }
        for sid in ["s-1", "s-2"] {
            let login = json!({"sub": "alice", "participants": [{"client_id": "mute"}, {"client_id": "stranger"}]});
            provider.put(&format!("/v1/issuers/main/sessions/{sid}"), login).await.expect(201);
        }
        let log_out = async |more: Value| {
            let mut order = json!({"reason": "admin"});
            order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            provider.post("/v1/issuers/main/logouts", order).await
        };
        // What is only rehearsed is not counted.
        log_out(json!({"target": {"sub": "alice"}, "dry_run": true})).await.expect(200);
        log_out(json!({"target": {"sid": "s-1"}})).await.expect(201);
        assert_eq!(settled("unreachable", "no_uri").await, Some(1.0));
        log_out(json!({"target": {"sub": "alice"}})).await.expect(201);
        assert_eq!(settled("unreachable", "no_uri").await, Some(2.0));
        assert_eq!(settled("unreachable", "client_not_registered").await, Some(2.0));
    }

    async fn every_scrape_adds_up_while_logouts_are_committed_delivered_retried_and_forgotten(database) {
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &[OFTEN]).await, &["ES256"]).await;
        let _parties = parties(&stage).await;
        let tools = Tools { keep: Keep { settled: DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        let (admin, enough) = (stage.server.admin(), tokio_util::sync::CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "whoever scrapes is another program; its runtime ends with the test")]
        let watching = {
            let (admin, enough) = (admin.clone(), enough.clone());
            tokio::spawn(async move {
                let (mut scrapes, mut most) = (0_u32, (0.0_f64, 0.0_f64));
                while !enough.is_cancelled() {
                    let (enqueued, forgotten) = adds_up(&scrape(&admin).await);
                    most = (most.0.max(enqueued), most.1.max(forgotten));
                    scrapes += 1;
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                (scrapes, most)
            })
        };
        for round in 0..3 {
            let logouts = (0..12).map(|number| log_in_and_out(&stage, 100 * round + number));
            futures_util::future::join_all(logouts).await;
            stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"client_id": "wiki"}, "reason": "admin"})).await;
            // What waits for a receiver that is away expires; what settled is forgotten a day later.
            stage.server.advance(4 * DAY);
            sweep(&tools).await;
        }
        // Five deliveries each, and what retention took of the first rounds.
        until("the account has seen it all", || async {
            let samples = scrape(&admin).await;
            (value(&samples, "logoutd_deliveries_enqueued") >= 180.0).then_some(())
        })
        .await;
        until("something is forgotten", || async {
            stage.server.advance(DAY);
            sweep(&tools).await;
            (value(&scrape(&admin).await, "logoutd_deliveries_forgotten") >= 60.0).then_some(())
        })
        .await;
        enough.cancel();
        let (scrapes, (enqueued, forgotten)) = watching.await.unwrap();
        assert!(scrapes > 20 && enqueued >= 180.0 && forgotten >= 60.0, "{scrapes} {enqueued} {forgotten}");
    }

    async fn a_delivery_that_is_lost_shows_and_raises_an_alarm(database) {
        let mut process = Process::serve(database, &[OFTEN]);
        let admin = process.admin().await;
        admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
        let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        for sid in ["a", "b"] {
            let login = json!({"sub": sid, "participants": [{"client_id": "nobody-registered-it"}]});
            provider.put(&format!("/v1/issuers/main/sessions/{sid}"), login).await.expect(201);
            provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": sid}, "reason": "user_logout"})).await.expect(201);
        }
        until("both are counted", || async { (value(&scrape(&admin).await, "logoutd_deliveries_enqueued") > 1.5).then_some(()) }).await;
        adds_up(&scrape(&admin).await);
        assert!(admin.items("/v1/alarms?kind=conservation_lost").await.is_empty());

        execute(database, "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries ORDER BY id LIMIT 1)").await;
        until("the loss shows", || async { (value(&scrape(&admin).await, "logoutd_deliveries_unaccounted") > 0.5).then_some(()) }).await;
        let alarm = until("somebody must look at it", || async { admin.items("/v1/alarms?state=open").await.into_iter().next() }).await;
        assert_eq!((&alarm["kind"], &alarm["about"]), (&json!("conservation_lost"), &json!("deliveries")), "{alarm}");
        assert!(process.log().contains("deliveries are missing from the account"));
    }

    async fn every_series_says_what_it_is_and_every_label_is_of_a_closed_set(database) {
        let hostile = [
            OFTEN,
            ("LOGOUTD_METRICS__PINNED_CLIENTS", "main/wiki, main/gone"),
            ("LOGOUTD_CHECK__WEB__ISSUER", "main"),
            ("LOGOUTD_CHECK__WEB__ALLOW_NETWORKS", "127.0.0.0/8"),
        ];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &hostile).await, &["ES256"]).await;
        let _parties = parties(&stage).await;
        for number in 0..4 {
            log_in_and_out(&stage, number).await;
        }
        be_a_nuisance(&stage).await;
        until("some are refused and some wait", || async {
            let samples = scrape(&stage.admin).await;
            let refused = samples.iter().any(|one| one.name == "logoutd_deliveries_settled_total" && one.labels["state"] == "rejected" && one.value > 0.5);
            let pinned = samples.iter().any(|one| one.name == "logoutd_pinned_client_pending" && one.labels["client_id"] == "gone" && one.value > 0.5);
            (refused && pinned).then_some(())
        })
        .await;
        let text = stage.admin.get("/metrics").await.text;
        for secret in ["person-1", "sid-1", "nobody-s-route", "evil-tok"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        let document = stage.server.nobody().get("/openapi.json").await.expect(200);
        let wrong: BTreeSet<String> = samples(&text).iter().filter_map(|sample| open_label(sample, &document)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        for sample in samples(&text) {
            says_what_it_is(&text, &sample.name);
        }
        let build = samples(&text);
        // Other servers of this process may have the other engine.
        let engine = match database.engine {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        };
        let is_ours = |sample: &&Sample| sample.name == "logoutd_database_info" && sample.labels["engine"] == engine;
        let database_info = build.iter().find(is_ours).unwrap();
        match database.engine {
            Engine::Sqlite => assert_eq!((&*database_info.labels["synchronous"], &*database_info.labels["journal_mode"]), ("full", "wal")),
            Engine::Postgres => assert!(!database_info.labels["fsync"].is_empty() && !database_info.labels["synchronous_commit"].is_empty()),
        }
        assert!(value(&build, "process_resident_memory_bytes") > 1.0e6 && value(&build, "process_open_fds") > 2.0);
        assert!(value(&build, "process_start_time_seconds") > 1.0e9);
    }
}

/// Whatever a caller can make up.
async fn be_a_nuisance(stage: &Stage) {
    let nobody = stage.server.nobody();
    nobody.get("/nobody-s-route/person-1").await.problem(404, "not-found");
    nobody.with_token("ldt_evil-tok").get("/v1/issuers").await.problem(401, "unauthorized");
    let method = reqwest::Method::from_bytes(b"PERSON").unwrap();
    crate::harness::api::send(nobody.request(method, "/v1/issuers")).await;
    stage.provider.introspect("evil-tok").await;
    stage.provider.introspect("eyJhbGciOiJub25lIn0.eyJzdWIiOiJwZXJzb24tMSJ9.").await;
    nobody.get("/main/check/web/person-1").await;
    nobody.get("/main/check/person-1").await;
    nobody.form("/main/backchannel-logout", &[("logout_token", "evil-tok")]).await;
}

/// The label that is none of a closed set.
fn open_label(sample: &Sample, document: &Value) -> Option<String> {
    let is_closed = |(key, value): &(&String, &String)| closed(&sample.name, key, value, document);
    let open = sample.labels.iter().find(|label| !is_closed(label));
    open.map(|(key, value)| format!("{} {key}={value}", sample.name))
}

fn closed(name: &str, key: &str, value: &str, document: &Value) -> bool {
    let of = |words: &[&str]| words.contains(&value);
    let word =
        || !value.is_empty() && value.len() <= 40 && value.bytes().all(|o| o.is_ascii_lowercase() || o.is_ascii_digit() || o == b'_');
    match (name, key) {
        (_, "le") => value == "+Inf" || value.parse::<f64>().is_ok(),
        (_, "method") => of(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"]),
        (_, "status") => value.parse::<u16>().is_ok_and(|status| (100..600).contains(&status)),
        (_, "route") => {
            let below = value.trim_end_matches("{*rest}").trim_end_matches('/');
            value == "(none)" || document["paths"].get(value).is_some() || document["paths"].get(below).is_some()
        }
        ("logoutd_lanes", "state") => of(&["open", "parked", "paused"]),
        (_, "state") => DeliveryState::ALL.iter().any(|state| state.as_str() == value),
        ("logoutd_logouts_total", "reason") => Reason::ALL.iter().any(|reason| reason.as_str() == value),
        (_, "reason") => SettledReason::ALL.iter().any(|reason| reason.as_str() == value),
        ("logoutd_logouts_total", "class") => Class::ALL.iter().any(|class| class.as_str() == value),
        (_, "class") => OutcomeClass::ALL.iter().any(|class| class.as_str() == value),
        ("logoutd_token_events_total", "kind") => TokenEventKind::ALL.iter().any(|kind| kind.as_str() == value),
        ("logoutd_alarms", "kind") => AlarmKind::ALL.iter().any(|kind| kind.as_str() == value),
        ("logoutd_work_pages_total", "kind") => of(&["expand", "replay", "cancel"]),
        ("logoutd_store_failures_total", "kind") => of(&["unavailable", "corrupt"]),
        ("logoutd_certificate_expires_seconds" | "logoutd_certificates_near_total", "kind") => {
            CertificateKind::ALL.iter().any(|kind| kind.as_str() == value)
        }
        (_, "percent") => of(&["50", "70", "90", "100"]),
        (_, "threshold") => of(&["30d", "7d", "1d", "past"]),
        (_, "engine") => of(&["sqlite", "postgres"]),
        // Of the configuration: there are few, and they stay.
        (_, "issuer") => of(&["main"]),
        (_, "client_id") => of(&["wiki", "gone"]),
        // Names of the configuration: other servers of this process have others.
        (_, "profile") => value.len() <= 40 && value.bytes().all(|o| o.is_ascii_lowercase() || o.is_ascii_digit() || b"-_".contains(&o)),
        // Words of the source, by their shape; none can come from a caller.
        (_, "why" | "outcome" | "trouble" | "operation" | "how" | "limited" | "load") => value.is_empty() || word(),
        ("logoutd_info" | "logoutd_database_info", "version" | "database_version") => value.len() < 80,
        ("logoutd_database_info", "synchronous" | "journal_mode" | "fsync" | "synchronous_commit") => word(),
        _ => false,
    }
}

/// It has a help text and the type its name promises.
#[track_caller]
fn says_what_it_is(text: &str, name: &str) {
    let parts = ["_bucket", "_sum", "_count"];
    let is = |name: &str, kind: &str| text.contains(&format!("# TYPE {name} {kind}\n"));
    let base = parts.iter().find_map(|part| name.strip_suffix(part)).filter(|base| is(base, "histogram")).unwrap_or(name);
    let kind = match base {
        base if base.ends_with("_total") => "counter",
        base if base != name => "histogram",
        _ => "gauge",
    };
    assert!(is(base, kind), "{base} is no {kind}");
    let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {base} ")));
    assert!(help.is_some_and(|help| help.len() > 10), "{base} has no help text");
}

async fn execute(database: &Database, statement: &'static str) {
    match database.engine {
        Engine::Sqlite => {
            let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Engine::Postgres => {
            let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

#[test]
fn no_more_than_twenty_clients_have_figures_of_their_own() {
    let load = |pinned: String| {
        let variables = [("LOGOUTD_METRICS__PINNED_CLIENTS".to_owned(), pinned)];
        Config::load(&Arguments::default(), variables)
    };
    let many = |count: usize| (0..count).map(|number| format!("main/c{number}")).collect::<Vec<_>>().join(",");
    assert_eq!(load(many(20)).unwrap().metrics.pinned.len(), 20);
    for (wrong, why) in [(many(21), "20 clients"), ("wiki".to_owned(), "main/wiki"), ("MAIN/wiki".to_owned(), "main/wiki")] {
        let mistakes = load(wrong).unwrap_err().to_string();
        assert!(mistakes.contains("metrics.pinned_clients") && mistakes.contains(why), "{mistakes}");
    }
}

const RULES: &str = include_str!("../../examples/observability/alerts.yml");
const RULES_TEST: &str = include_str!("../observability/rules-test.yml");
const DASHBOARD: &str = include_str!("../../examples/observability/grafana-dashboard.json");

/// Every word that is the name of a metric.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("logoutd_") || word.starts_with("process_")).collect()
}

/// Who tells of a failure of the database: whoever names himself where he does, and the chores.
fn operations() -> BTreeSet<String> {
    fn told(directory: &std::path::Path, found: &mut BTreeSet<String>) {
        for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                told(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(text.split(".tell(\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(word, _)| word.to_owned()));
        }
    }
    let mut found = BTreeSet::new();
    told(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    let timetable = Config::load(&Arguments::default(), []).unwrap().schedule.timetable;
    found.extend(logoutd::upkeep::chores(&timetable, &logoutd::bells::Bells::default()).iter().map(|chore| chore.name.to_owned()));
    found
}

on_both_engines! {
    async fn every_name_in_the_rules_and_on_the_dashboard_is_one_the_server_exports(database) {
        let settings = [OFTEN, ("LOGOUTD_METRICS__PINNED_CLIENTS", "main/wiki")];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &settings).await, &["ES256"]).await;
        let _parties = parties(&stage).await;
        log_in_and_out(&stage, 1).await;
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 10));
        until("something was delivered and counted", || async {
            let samples = scrape(&stage.admin).await;
            let seen =
                ["logoutd_pinned_client_pending", "logoutd_delivery_settled_age_seconds_bucket", "logoutd_lanes", "logoutd_audit_unsealed_seconds"];
            seen.iter().all(|name| samples.iter().any(|sample| sample.name == *name)).then_some(())
        })
        .await;
        let samples = scrape(&stage.admin).await;
        let exported: BTreeSet<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
        for text in [RULES, RULES_TEST, DASHBOARD] {
            assert!(names(text).len() > 10);
            for name in names(text) {
                assert!(exported.contains(name), "nobody exports {name}");
            }
        }
        // What appears with its first failure has no increase that a rule could see.
        let failures: BTreeSet<(&str, &str)> = samples
            .iter()
            .filter(|sample| sample.name == "logoutd_store_failures_total")
            .map(|sample| (sample.labels["operation"].as_str(), sample.labels["kind"].as_str()))
            .collect();
        let operations = operations();
        assert!(operations.len() > 20, "{operations:?}");
        let wanted = operations.iter().flat_map(|operation| ["unavailable", "corrupt"].map(|kind| (operation.as_str(), kind)));
        assert_eq!(wanted.collect::<BTreeSet<_>>(), failures);
    }
}
