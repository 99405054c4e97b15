//! Making a person nobody: no name is left anywhere, what protects goes on protecting, and the trail still verifies.

use std::time::Duration;

use logoutd::config::Mode;
use logoutd::model::Timestamp;
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};

use crate::audit::{seal, verified};
use crate::harness::api::send;
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Party, Reply};
use crate::harness::provider::Provider;
use crate::harness::server::{ISSUER, Server, Stage};

const SUBJECTS: &str = "/v1/issuers/main/subjects";
const SESSIONS: &str = "/v1/issuers/main/sessions";
const LOGOUTS: &str = "/v1/issuers/main/logouts";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";

/// Whom it is about, and every name of theirs.
const ALICE: &str = "sub-of-alice-7f3a";
const NAMES: [&str; 12] = [
    ALICE,
    "sid-of-alice-1",
    "sid-of-alice-2",
    "sid-of-alice-3",
    "own-sid-at-wiki",
    "pairwise-at-wiki",
    "198.51.100.77",
    "Alice's own browser",
    "laptop of alice",
    "device-of-alice",
    "email:alice@example.org",
    "written by hand about her",
];

/// Every value of every column of every table, as text.
async fn dump(database: &Database) -> String {
    match database.engine {
        Engine::Sqlite => {
            let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
            let tables: Vec<String> =
                sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
            let mut text = String::new();
            for table in tables {
                let columns: Vec<String> =
                    sqlx::query_scalar("SELECT name FROM pragma_table_info($1)").bind(&table).fetch_all(&mut connection).await.unwrap();
                let all = columns.iter().map(|column| format!("quote({column})")).collect::<Vec<_>>().join(" || ' ' || ");
                let rows: Vec<String> =
                    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT {all} FROM {table}"))).fetch_all(&mut connection).await.unwrap();
                rows.iter().for_each(|row| text.push_str(&format!("{table}: {row}\n")));
            }
            text
        }
        Engine::Postgres => {
            let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
            let tables: Vec<String> =
                sqlx::query_scalar("SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()")
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
            let mut text = String::new();
            for table in tables {
                let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT row_to_json(t)::text FROM {table} AS t")))
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
                rows.iter().for_each(|row| text.push_str(&format!("{table}: {}\n", row.get::<String, _>(0))));
            }
            text
        }
    }
}

fn at(stage: &Stage, seconds: i64) -> String {
    Timestamp::from_seconds(stage.server.clock.now().seconds() + seconds).to_string()
}

async fn erase(stage: &Stage, sub: &str) -> crate::harness::api::Answer {
    send(stage.provider.request(reqwest::Method::DELETE, SUBJECTS).json(&json!({ "sub": sub }))).await
}

/// A server with a relying party that echoes what it was sent, and a person who has left traces wherever traces are left.
async fn stage(database: &Database) -> (Stage, [Party; 2]) {
    let profiles = [("LOGOUTD_CHECK__ANY__ISSUER", "main"), ("LOGOUTD_CHECK__ANY__ALLOW_NETWORKS", "127.0.0.0/8")];
    let stage = Stage::on(Server::start_with(database, Mode::Dev, &profiles).await, &["ES256"]).await;
    stage.admin.patch("/v1/issuers/main", json!({"subject_secrets": true})).await.expect(200);
    let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({"delivery": {"confirm_rejections": 0}})).await);
    shop.always(Reply::Full { status: 400, headers: Vec::new(), body: format!("no such person: {ALICE}") });
    for (sid, device) in [("sid-of-alice-1", true), ("sid-of-alice-2", false), ("sid-of-alice-3", false)] {
        let device = if device {
            json!({"id": "device-of-alice", "label": "laptop of alice", "ip": "198.51.100.77", "user_agent": "Alice's own browser"})
        } else {
            json!({})
        };
        let body = json!({
            "sub": ALICE, "started_at": at(&stage, -60), "device": device, "aliases": ["email:alice@example.org"],
            "participants": [{"client_id": "wiki", "sid": "own-sid-at-wiki", "sub": "pairwise-at-wiki"}, {"client_id": "shop"}],
        });
        stage.provider.put(&format!("{SESSIONS}/{sid}"), body).await.expect(201);
        stage.provider.post(TOKENS, json!({"sid": sid, "client_id": "wiki", "token": format!("rt-{sid}")})).await.expect(201);
    }
    let offline = json!({"sub": ALICE, "client_id": "wiki", "token": "rt-offline", "offline_access": true});
    stage.provider.post(TOKENS, offline).await.expect(201);
    (stage, [wiki, shop])
}

async fn receipt(stage: &Stage, id: &Value) -> Value {
    stage.admin.get(&format!("{LOGOUTS}/{}", id.as_str().unwrap())).await.expect(200)
}

async fn settled(stage: &Stage, id: &Value) -> Value {
    crate::harness::until("the logout settles", || async {
        let receipt = receipt(stage, id).await;
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await
}

async fn log_out(stage: &Stage, target: Value, more: Value) -> Value {
    let mut body = json!({"target": target, "reason": "admin", "actor": ALICE, "note": "written by hand about her", "reason_detail": "written by hand about her"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = format!("{target}{more}").replace(' ', "_");
    let answer = stage.admin.post_with(LOGOUTS, ("Idempotency-Key", &key), body).await;
    assert!(answer.is_success(), "{}", answer.text);
    settled(stage, &answer.body["id"]).await
}

/// Everything of hers ended, by every kind of name.
async fn end_all(stage: &Stage) -> Value {
    log_out(stage, json!({"sid": "sid-of-alice-1"}), json!({})).await;
    log_out(stage, json!({"client_id": "wiki", "client_sid": "own-sid-at-wiki"}), json!({})).await;
    log_out(stage, json!({"client_id": "wiki", "client_sub": "pairwise-at-wiki"}), json!({})).await;
    log_out(stage, json!({"device_id": "device-of-alice"}), json!({})).await;
    log_out(stage, json!({"sub": ALICE, "except_sid": "sid-of-alice-3"}), json!({})).await;
    log_out(stage, json!({"sub": ALICE, "client_id": "wiki"}), json!({})).await;
    stage.provider.post("/v1/issuers/main/subjects/secret/bump", json!({"sub": ALICE})).await.expect(200);
    let ordered = json!({"scope": {"sub": ALICE}, "not_before": at(stage, 0)});
    let id = stage.admin.post("/v1/issuers/main/cut-offs", ordered).await.expect(201);
    assert!(id["id"].is_string());
    log_out(stage, json!({"sub": ALICE}), json!({"revoke_offline_access": true, "reason": "compromise"})).await
}

on_both_engines! {
    async fn nobody_is_erased_while_something_of_theirs_goes_on(database) {
        let (stage, _parties) = stage(database).await;
        let why = erase(&stage, ALICE).await.problem(409, "in-use");
        assert!(why["detail"].as_str().unwrap().contains("3 live sessions"), "{why}");
        log_out(&stage, json!({"sub": ALICE}), json!({})).await;
        let why = erase(&stage, ALICE).await.problem(409, "in-use");
        assert!(why["detail"].as_str().unwrap().contains("0 live sessions, 0 open deliveries, 1 good offline grants"), "{why}");
        // A delivery that is opened again is in the way as well.
        log_out(&stage, json!({"sub": ALICE}), json!({"revoke_offline_access": true})).await;
        assert!(stage.admin.order("/v1/issuers/main/clients/shop/pause").await.is_success());
        stage.admin.post("/v1/issuers/main/deliveries/replay", json!({"client_id": "shop", "state": ["rejected"]})).await.expect(202);
        crate::harness::until("the replay is done", || async {
            let why = erase(&stage, ALICE).await.problem(409, "in-use")["detail"].as_str().unwrap().to_owned();
            why.contains("3 open deliveries, 0 good offline grants of this person, and 0 logouts").then_some(())
        })
        .await;
        assert!(dump(database).await.contains(ALICE), "a refusal erases nothing");
        assert!(stage.admin.items("/v1/audit?act=subject_erased").await.is_empty());
    }

    async fn no_name_is_left_in_any_column_of_any_table_and_everything_is_still_counted(database) {
        let (stage, _parties) = stage(database).await;
        stage.login("sid-of-bob", "sub-of-bob", &["wiki"]).await;
        let last = end_all(&stage).await;
        // Whoever has one tried again writes something by hand, too.
        let told = stage.admin.items("/v1/issuers/main/deliveries?client_id=wiki&state=delivered").await.remove(0);
        let retry = stage.admin.request(reqwest::Method::POST, &format!("/v1/issuers/main/deliveries/{}/retry", told["id"].as_str().unwrap()));
        assert_eq!(send(retry.header("Logoutd-Note", "written by hand about her")).await.status, 202);
        settled(&stage, &told["logout"]).await;
        // A logout of everybody that spared her is another's.
        let sparing = json!({"target": {"client_id": "wiki", "except": {"sub": [ALICE]}}, "reason": "admin", "note": "of the wiki"});
        let spared = stage.admin.post(LOGOUTS, sparing).await.expect(202);
        settled(&stage, &spared["id"]).await;
        seal(&stage).await;
        let before = dump(database).await;
        for name in NAMES {
            assert!(before.contains(name) || before.contains(&name.replace('\'', "''")), "{name} was somewhere");
        }
        let shown = receipt(&stage, &last["id"]).await;

        let erased = erase(&stage, ALICE).await.expect(200);
        assert_eq!((&erased["sessions"], &erased["participants"]), (&json!(3), &json!(6)), "{erased}");
        assert!(erased["logouts"].as_u64().unwrap() >= 7 && erased["cut_offs"].as_u64().unwrap() >= 6, "{erased}");
        assert!(erased["protected_until"].is_string() && erased["audit_records"].as_u64().unwrap() >= 8, "{erased}");
        let after = dump(database).await;
        for name in NAMES {
            for spelling in [name.to_owned(), name.replace('\'', "''")] {
                if let Some(line) = after.lines().find(|line| line.contains(&spelling)) {
                    panic!("{name} is left in {line}");
                }
            }
        }
        assert!(after.contains("sub-of-bob") && after.contains("sid-of-bob"), "nobody else is touched");

        let now = receipt(&stage, &last["id"]).await;
        for member in ["deliveries", "sessions_ended", "refresh_tokens_revoked", "state", "settled_at", "reason"] {
            assert_eq!(now[member], shown[member], "{member}");
        }
        assert_eq!(receipt(&stage, &spared["id"]).await["note"], "of the wiki");
        assert!(stage.provider.post("/v1/issuers/main/subjects/status", json!({"sub": ALICE})).await.expect(200)["sessions"].as_array().unwrap().is_empty());
        let record = stage.admin.items("/v1/audit?act=subject_erased").await;
        assert!(record.len() == 1 && record[0]["detail"]["sessions"] == 3 && !record[0].to_string().contains(ALICE), "{record:?}");
        seal(&stage).await;
        let report = verified(&stage).await.unwrap();
        assert!(report.erased > 8, "{report:?}");
        // Once more there is nothing to do.
        let again = erase(&stage, ALICE).await.expect(200);
        assert_eq!((&again["sessions"], &again["audit_records"]), (&json!(0), &json!(0)), "{again}");
        assert!(verified(&stage).await.is_ok());
    }

    async fn what_the_provider_was_asked_to_end_and_was_never_reported_names_nobody_either(database) {
        let stage = Stage::set(database).await;
        let provider = Party::open(&stage.server.base, "main", ISSUER, "provider").await;
        provider.always(Reply::Full { status: 503, headers: vec![("Retry-After".to_owned(), "60".to_owned())], body: format!("{ALICE} is busy") });
        let url = format!("http://{}/users/{{sub}}", provider.address());
        let told_by = json!({"provider_logout": {"preset": "http", "method": "DELETE", "url": url}});
        stage.admin.patch("/v1/issuers/main", told_by).await.expect(200);
        let asked = stage.admin.post(LOGOUTS, json!({"target": {"sub": ALICE}, "reason": "admin", "tell_provider": true})).await.expect(202);
        provider.only_call().await;
        let why = erase(&stage, ALICE).await.problem(409, "in-use");
        assert!(why["detail"].as_str().unwrap().contains("0 live sessions, 1 open deliveries"), "{why}");
        provider.always(Reply::Status(204));
        stage.server.advance(Duration::from_secs(70));
        settled(&stage, &asked["id"]).await;
        assert!(dump(database).await.contains(ALICE));
        assert_eq!(erase(&stage, ALICE).await.expect(200)["deliveries"], 1);
        seal(&stage).await;
        if let Some(line) = dump(database).await.lines().find(|line| line.contains(ALICE)) {
            panic!("she is left in {line}");
        }
    }

    async fn what_protected_goes_on_protecting_and_a_new_login_is_a_new_login(database) {
        let (stage, _parties) = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let tokens: Vec<String> = [
            json!({"sub": ALICE, "sid": "sid-of-alice-1", "exp": provider.seconds() + 3600}),
            json!({"sub": ALICE, "exp": provider.seconds() + 3600}),
            json!({"sub": "pairwise-at-wiki", "sid": "own-sid-at-wiki", "exp": provider.seconds() + 3600}),
        ].iter().map(|about| provider.access_token("wiki", about)).collect();
        let check = async |token: &str| {
            send(stage.server.nobody().with_token(token).request(reqwest::Method::GET, "/main/check/any")).await.status
        };
        for token in &tokens {
            assert_eq!(check(token).await, 200);
        }
        stage.server.advance(Duration::from_secs(5));
        // One whose session alone was named: nothing but its row said that it is over.
        stage.provider.put(&format!("{SESSIONS}/sid-of-carol"), json!({"sub": "sub-of-carol", "started_at": at(&stage, -60), "participants": [{"client_id": "wiki"}]})).await.expect(201);
        let of_carol = provider.access_token("wiki", &json!({"sub": "sub-of-carol", "sid": "sid-of-carol", "exp": provider.seconds() + 3600}));
        assert_eq!(check(&of_carol).await, 200);
        stage.server.advance(Duration::from_secs(5));
        log_out(&stage, json!({"sid": "sid-of-carol"}), json!({})).await;
        erase(&stage, "sub-of-carol").await.expect(200);
        assert_eq!(check(&of_carol).await, 401);
        end_all(&stage).await;
        let secret = stage.provider.post("/v1/issuers/main/subjects/secret", json!({"sub": ALICE})).await.expect(200);
        for token in &tokens {
            assert_eq!(check(token).await, 401, "before");
        }
        erase(&stage, ALICE).await.expect(200);
        for (number, token) in tokens.iter().enumerate() {
            assert_eq!(check(token).await, 401, "token {number}");
        }
        assert_eq!(stage.provider.introspect("rt-offline").await["active"], false);
        assert_eq!(stage.provider.post("/v1/issuers/main/subjects/secret", json!({"sub": ALICE})).await.expect(200), secret, "no secret comes back");
        // A report that comes late finds that it is over; a login after that is one.
        let late = json!({"sub": ALICE, "started_at": at(&stage, -30), "participants": [{"client_id": "wiki"}]});
        let told = stage.provider.put(&format!("{SESSIONS}/sid-of-alice-1"), late).await;
        assert_eq!(told.body["state"], "ended", "{}", told.text);
        stage.server.advance(Duration::from_secs(5));
        let fresh = json!({"sub": ALICE, "started_at": at(&stage, 0), "participants": [{"client_id": "wiki"}]});
        assert_eq!(stage.provider.put(&format!("{SESSIONS}/sid-new"), fresh).await.expect(201)["state"], "live");
    }

    async fn an_ended_session_stays_ended_whatever_time_its_tokens_say(database) {
        let profiles = [("LOGOUTD_CHECK__ANY__ISSUER", "main"), ("LOGOUTD_CHECK__ANY__ALLOW_NETWORKS", "127.0.0.0/8")];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &profiles).await, &["ES256"]).await;
        let _wiki = stage.party("wiki", json!({})).await;
        let provider = Provider::open(&stage, json!({})).await;
        let check = async |token: &str| {
            send(stage.server.nobody().with_token(token).request(reqwest::Method::GET, "/main/check/any")).await.status
        };
        let participants = json!([{"client_id": "wiki", "sid": "own-sid", "sub": "pairwise"}]);
        stage.provider.put(&format!("{SESSIONS}/sid-1"), json!({"sub": ALICE, "started_at": at(&stage, -60), "participants": participants})).await.expect(201);
        log_out(&stage, json!({"sid": "sid-1"}), json!({})).await;
        let (now, exp) = (provider.seconds(), provider.seconds() + 3600);
        let mut tokens = Vec::new();
        for (sub, sid) in [(ALICE, "sid-1"), ("pairwise", "own-sid")] {
            for iat in [json!(now - 30), json!(now), json!(now + 5), Value::Null] {
                tokens.push(provider.access_token("wiki", &json!({"sub": sub, "sid": sid, "iat": iat, "exp": exp})));
            }
        }
        for token in &tokens {
            assert_eq!(check(token).await, 401, "before");
        }
        erase(&stage, ALICE).await.expect(200);
        for (number, token) in tokens.iter().enumerate() {
            assert_eq!(check(token).await, 401, "token {number}");
        }
        let new = provider.access_token("wiki", &json!({"sub": ALICE, "sid": "sid-of-a-new-login", "iat": now + 5, "exp": exp}));
        assert_eq!(check(&new).await, 200, "a new login is a new login");
    }

    async fn what_stands_for_a_name_is_nobodys_name(database) {
        let (stage, _parties) = stage(database).await;
        let last = end_all(&stage).await;
        let secret = stage.provider.post("/v1/issuers/main/subjects/secret", json!({"sub": ALICE})).await.expect(200);
        erase(&stage, ALICE).await.expect(200);
        let veiled = receipt(&stage, &last["id"]).await["target"]["sub"].as_str().unwrap().to_owned();
        assert!(veiled.starts_with('~'), "{veiled}");
        erase(&stage, &veiled).await.problem(422, "invalid-field");
        stage.provider.put(&format!("{SESSIONS}/sid-new"), json!({"sub": veiled, "participants": [{"client_id": "wiki"}]})).await.problem(422, "invalid-field");
        assert_eq!(stage.provider.post("/v1/issuers/main/subjects/secret", json!({"sub": ALICE})).await.expect(200), secret);
    }

    async fn erasing_one_person_takes_nobody_else_out_of_anything(database) {
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &[]).await, &["ES256"]).await;
        let _wiki = stage.party("wiki", json!({})).await;
        let of_bob = json!({"sub": "bob", "device": {"id": "shared"}, "participants": [{"client_id": "wiki", "sid": "own-bob", "sub": "pw-bob"}]});
        stage.provider.put(&format!("{SESSIONS}/sid-bob"), of_bob).await.expect(201);
        for target in [json!({"sub": "bob"}), json!({"sid": "sid-bob"}), json!({"device_id": "shared"}), json!({"client_id": "wiki", "client_sub": "pw-bob"})] {
            let body = json!({"target": target, "reason": "compromise", "actor": "mallory", "note": "a trace"});
            let answer = stage.admin.post_with(LOGOUTS, ("Idempotency-Key", &target.to_string().replace(' ', "_")), body).await;
            settled(&stage, &answer.body["id"]).await;
        }
        stage.admin.post("/v1/issuers/main/cut-offs", json!({"scope": {"sub": "carol"}, "not_before": at(&stage, 0)})).await.expect(201);
        seal(&stage).await;
        let traces = async || {
            let trail: Vec<Value> = stage.admin.items("/v1/audit?limit=100").await.into_iter().filter(|one| one["act"] != "subject_erased" && one["detail"]["target"]["sid"] != "sid-eve").collect();
            let logouts: Vec<Value> = stage.admin.items(LOGOUTS).await.into_iter().filter(|one| one["target"]["sid"] != "sid-eve" && !one["target"]["sid"].as_str().unwrap_or("").starts_with('~')).collect();
            let kept = dump(database).await;
            let kept: Vec<String> = kept.lines().filter(|line| ["cut_offs: ", "idempotency_keys: "].iter().any(|table| line.starts_with(table)) && ["bob", "carol", "shared"].iter().any(|name| line.contains(name))).map(str::to_owned).collect();
            (trail, logouts, kept)
        };
        let of_eve = json!({
            "sub": "eve", "aliases": ["bob", "mallory", "carol", "wiki", "sid-bob"], "device": {"id": "shared", "label": "mallory"},
            "participants": [{"client_id": "wiki", "sid": "own-bob", "sub": "pw-bob"}],
        });
        stage.server.advance(Duration::from_secs(5));
        stage.provider.put(&format!("{SESSIONS}/sid-eve"), of_eve).await.expect(201);
        let before = traces().await;
        let answer = stage.provider.post(LOGOUTS, json!({"target": {"sid": "sid-eve"}, "reason": "admin"})).await;
        settled(&stage, &answer.body["id"]).await;
        erase(&stage, "eve").await.expect(200);
        let after = traces().await;
        let of_sealed = |trail: &[Value]| trail.iter().filter(|one| one["actor"] == "mallory").count();
        assert_eq!(of_sealed(&after.0), 4, "{:?}", after.0);
        assert!(after.0.iter().all(|one| one["act"] != "cut_off_ordered" || one["detail"]["scope"]["sub"] == "carol"), "{:?}", after.0);
        assert_eq!(after.1, before.1);
        assert_eq!(after.2, before.2);
        seal(&stage).await;
        assert!(verified(&stage).await.is_ok());
    }

    async fn what_is_erased_before_it_is_sealed_is_sealed_as_what_it_was(database) {
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &[]).await, &["ES256"]).await;
        let body = json!({"target": {"sub": "eve"}, "reason": "admin", "note": "seen by eve's neighbour"});
        stage.provider.post(LOGOUTS, body).await.expect(201);
        assert_eq!(erase(&stage, "eve").await.expect(200)["audit_records"], 1);
        seal(&stage).await;
        let report = verified(&stage).await.unwrap();
        assert_eq!(report.erased, 2, "{report:?}");
        assert_eq!(crate::audit::alarms(&stage).await, "");
    }

    async fn a_name_that_stands_in_the_trail_alone_is_found_however_it_is_written(database) {
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &[]).await, &["ES256"]).await;
        for (sub, other) in [("a%b!_\"c\\d", "aXb!_\"c\\d")] {
            for sub in [sub, other] {
                stage.admin.post("/v1/issuers/main/cut-offs", json!({"scope": {"sub": sub}, "not_before": at(&stage, 0)})).await.expect(201);
            }
            seal(&stage).await;
            assert_eq!(erase(&stage, sub).await.expect(200)["audit_records"], 1);
            let left = stage.admin.items("/v1/audit?act=cut_off_ordered").await;
            assert!(left.iter().any(|one| one["detail"]["scope"]["sub"] == other) && !left.iter().any(|one| one["detail"]["scope"]["sub"] == sub), "{left:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_erased_name_no_octet_is_left_in_the_file_of_sqlite() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let octets = async || {
        let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
        let (busy, ..): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection).await.unwrap();
        assert_eq!(busy, 0, "the log is folded in");
        std::fs::read(database.url.strip_prefix("sqlite://").unwrap()).unwrap()
    };
    let holds = |octets: &[u8], name: &str| octets.windows(name.len()).any(|window| window == name.as_bytes());
    let (stage, _parties) = stage(&database).await;
    end_all(&stage).await;
    seal(&stage).await;
    let before = octets().await;
    assert!(NAMES.iter().all(|name| holds(&before, name)), "they were there");
    erase(&stage, ALICE).await.expect(200);
    let after = octets().await;
    let left: Vec<_> = NAMES.iter().filter(|name| holds(&after, name)).collect();
    assert!(left.is_empty(), "{left:?} are left in unused parts of pages");
}
