//! Ends by age and by a provider's list: once, at their own time, told to who asked, and never of a person who is still in.

use std::time::Duration;

use logoutd::config::Mode;
use logoutd::model::Timestamp;
use logoutd::model::effects::WorkRules;
use logoutd::model::report::{Report, SessionReport};
use logoutd::model::session::Life;
use logoutd::plan::{effects, expiry as age};
use logoutd::upkeep::{Step, Tools, expiry};
use serde_json::{Value, json};

use crate::harness::database::{Database, on_both_engines};
use crate::harness::party::Party;
use crate::harness::server::{Server, Stage};
use crate::harness::until;
use crate::store::{self, Bench, named, takes_part};

const SESSIONS: &str = "/v1/issuers/main/sessions";
const REPORTS: &str = "/v1/issuers/main/reports";
const LOGOUTS: &str = "/v1/issuers/main/logouts";
const RECONCILE: &str = "/v1/issuers/main/sessions/reconcile";

/// An instant as it is written, some seconds from now, on a whole second.
fn instant(stage: &Stage, seconds: i64) -> String {
    Timestamp::from_seconds(stage.server.clock.now().seconds() + seconds).to_string()
}

/// Runs the chore until it finds nothing.
async fn sweep(tools: &Tools) {
    while expiry::step(tools).await.unwrap() == Step::More {}
}

async fn state(stage: &Stage, sid: &str) -> Value {
    stage.provider.get(&format!("{SESSIONS}/{sid}")).await.expect(200)["state"].clone()
}

/// The session once it has ended.
async fn ended(stage: &Stage, sid: &str) -> Value {
    until("the session ends by its age", || async {
        sweep(&stage.server.tools()).await;
        let session = stage.provider.get(&format!("{SESSIONS}/{sid}")).await.expect(200);
        (session["state"] == "ended").then_some(session)
    })
    .await
}

/// Everything that is overdue has ended, and this has not.
async fn lives_on(stage: &Stage, sid: &str) {
    sweep(&stage.server.tools()).await;
    assert_eq!(state(stage, sid).await, "live", "{sid}");
}

/// Any receipt once it is settled: a provider sees its own alone.
async fn settled(stage: &Stage, id: &Value) -> Value {
    until("the logout settles", || async {
        let receipt = stage.provider.get(&format!("{LOGOUTS}/{}", id.as_str().unwrap())).await.expect(200);
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await
}

async fn authoritative(stage: &Stage) {
    stage.admin.patch("/v1/issuers/main", json!({"expiry": "authoritative"})).await.expect(200);
}

/// `wiki`, which asked to be told, and `shop`, which did not.
async fn parties(stage: &Stage) -> (Party, Party) {
    (stage.party("wiki", json!({"delivery": {"on_expiry": "notify"}})).await, stage.party("shop", json!({})).await)
}

async fn login(stage: &Stage, sid: &str, more: Value) -> Value {
    let mut body = json!({"sub": "alice", "participants": [{"client_id": "wiki"}, {"client_id": "shop"}]});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let answer = stage.provider.put(&format!("{SESSIONS}/{sid}"), body).await;
    assert!(answer.is_success(), "{}", answer.text);
    answer.body
}

on_both_engines! {
    async fn a_session_ends_by_its_age_at_its_own_time_and_tells_only_who_asked(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = parties(&stage).await;
        let (expires_at, later) = (instant(&stage, 60), instant(&stage, 65));
        login(&stage, "s-1", json!({"expires_at": expires_at, "participants": [
            {"client_id": "wiki", "refresh_token": {"token": "rt-1"}},
            {"client_id": "shop", "refresh_token": {"token": "rt-offline", "offline_access": true}},
            {"client_id": "unknown"},
        ]})).await;
        login(&stage, "s-2", json!({"sub": "bob", "expires_at": later})).await;
        login(&stage, "s-3", json!({"sub": "carol"})).await;
        lives_on(&stage, "s-1").await;

        stage.server.advance(Duration::from_secs(90));
        let session = ended(&stage, "s-1").await;
        assert_eq!(session["ended_at"], json!(expires_at));
        let other = ended(&stage, "s-2").await;
        assert_eq!((&other["ended_at"], &other["ended_by"]), (&json!(later), &session["ended_by"]));
        assert!(session["participants"].as_array().unwrap().iter().all(|one| one["ended_at"] == json!(expires_at)), "{session}");
        assert_eq!(state(&stage, "s-3").await, "live");

        let receipt = settled(&stage, &session["ended_by"]).await;
        assert_eq!((&receipt["target"], &receipt["reason"], &receipt["sessions_ended"]), (&json!({"expired": true}), &json!("expired"), &json!(2)));
        assert_eq!((&receipt["deliveries"]["total"], &receipt["deliveries"]["delivered"]), (&json!(2), &json!(2)), "{receipt}");
        assert_eq!(receipt["refresh_tokens_revoked"], 1);
        assert_eq!((wiki.calls().len(), shop.calls().len()), (2, 0));
        assert_eq!(stage.provider.introspect("rt-1").await, json!({"active": false}));
        assert_eq!(stage.provider.introspect("rt-offline").await["active"], true);

        let records = stage.admin.items("/v1/audit?act=sessions_expired").await;
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!((&records[0]["caller"], &records[0]["role"], &records[0]["logout"]), (&json!("logoutd"), &json!("operator"), &session["ended_by"]));
        // No cut-off is left: a login that is reported without its time begins.
        stage.provider.put(&format!("{SESSIONS}/s-9"), json!({"sub": "alice", "started_at": instant(&stage, -80)})).await.expect(201);
        assert_eq!(state(&stage, "s-9").await, "live");
    }

    async fn a_use_between_looking_and_ending_saves_a_session(database) {
        let bench = Bench::on(database).await;
        let soon = Some(bench.now().await.plus(Duration::from_secs(60)));
        for name in ["s-1", "s-2"] {
            let report = SessionReport { expires_at: soon, ..store::login(name, "alice", vec![takes_part("wiki")]) };
            bench.report(Report::Session(report)).await.unwrap();
        }
        bench.clock.advance(Duration::from_secs(61));
        let overdue = bench.store.overdue(&bench.issuer).await.unwrap();
        assert_eq!(overdue.len(), 2);
        let later = Some(bench.now().await.plus(Duration::from_secs(60)));
        bench.report(Report::Touch { session: named("s-1"), idle_expires_at: None, expires_at: later }).await.unwrap();
        let receipt = bench.store.expire(&bench.issuer, overdue.clone(), age::opening).await.unwrap().unwrap();
        assert_eq!(receipt.sessions_ended, 1);
        assert_eq!((bench.life("s-1").await, bench.life("s-2").await), (Life::Live, Life::Ended));
        assert_eq!(bench.store.expire(&bench.issuer, overdue, age::opening).await.unwrap(), None, "nothing is left to end");
    }

    async fn several_replicas_end_every_session_once(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"on_expiry": "notify"}})).await;
        let expires_at = instant(&stage, 60);
        let login = |n: usize| json!({"sid": format!("s-{n}"), "sub": format!("p-{}", n % 40), "expires_at": expires_at, "participants": [{"client_id": "wiki"}]});
        let sessions: Vec<_> = (0..450).map(login).collect();
        stage.provider.post(SESSIONS, json!({"sessions": sessions})).await.expect(200);
        stage.server.advance(Duration::from_secs(61));
        let replicas: Vec<_> = (0..4).map(|_| stage.server.tools()).collect();
        tokio::join!(sweep(&replicas[0]), sweep(&replicas[1]), sweep(&replicas[2]), sweep(&replicas[3]));
        until("all have ended", || async {
            sweep(&replicas[0]).await;
            stage.provider.items(&format!("{SESSIONS}?state=live")).await.is_empty().then_some(())
        }).await;
        let receipts = stage.admin.items(&format!("{LOGOUTS}?limit=1000")).await;
        let sum = |of: &dyn Fn(&Value) -> &Value| receipts.iter().map(|receipt| of(receipt).as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(&|receipt| &receipt["sessions_ended"]), 450);
        assert_eq!(sum(&|receipt| &receipt["deliveries"]["total"]), 450);
        assert!(receipts.iter().all(|receipt| receipt["sessions_ended"].as_u64().unwrap() <= 200), "{receipts:?}");
        until("wiki hears of each", || async { (wiki.calls().len() == 450).then_some(()) }).await;
    }

    async fn idle_time_ends_a_session_only_where_the_provider_reports_every_use_and_a_use_in_time_saves_it(database) {
        let stage = Stage::set(database).await;
        let (idle, long) = (instant(&stage, 60), instant(&stage, 6000));
        login(&stage, "s-1", json!({"expires_at": long, "idle_expires_at": idle})).await;
        login(&stage, "s-2", json!({"expires_at": long, "idle_expires_at": idle})).await;
        stage.server.advance(Duration::from_secs(61));
        lives_on(&stage, "s-1").await;

        let touch = |sid: &str, until: String| json!({"reports": [{"op": "touch", "sid": sid, "idle_expires_at": until}]});
        stage.provider.post(REPORTS, touch("s-1", instant(&stage, 120))).await.expect(200);
        // The latest word wins: an earlier one takes nothing back.
        stage.provider.post(REPORTS, touch("s-1", instant(&stage, -10))).await.expect(200);
        authoritative(&stage).await;
        let session = ended(&stage, "s-2").await;
        assert_eq!(session["ended_at"], json!(idle));
        assert_eq!(state(&stage, "s-1").await, "live");
        let answer = stage.provider.post(REPORTS, touch("s-2", instant(&stage, 120))).await.expect(200);
        assert!(answer.to_string().contains("session-ended"), "{answer}");
        stage.server.advance(Duration::from_secs(121));
        ended(&stage, "s-1").await;
    }

    async fn nothing_ends_by_its_age_where_the_provider_tells_of_every_end(database) {
        let stage = Stage::set(database).await;
        stage.admin.patch("/v1/issuers/main", json!({"expiry": "none"})).await.expect(200);
        login(&stage, "s-1", json!({"expires_at": instant(&stage, 1)})).await;
        stage.server.advance(Duration::from_secs(60));
        lives_on(&stage, "s-1").await;
        stage.admin.patch("/v1/issuers/main", json!({"expiry": "absolute"})).await.expect(200);
        ended(&stage, "s-1").await;
    }

    async fn a_session_first_reported_when_its_time_was_up_ends_and_tells_nobody_who_did_not_ask(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = parties(&stage).await;
        login(&stage, "s-1", json!({"started_at": instant(&stage, -600), "expires_at": instant(&stage, -60)})).await;
        let session = ended(&stage, "s-1").await;
        settled(&stage, &session["ended_by"]).await;
        assert_eq!((wiki.calls().len(), shop.calls().len()), (1, 0));
    }

    async fn a_late_report_of_more_time_goes_on_where_the_session_ended_by_its_age(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = parties(&stage).await;
        let started_at = instant(&stage, -60);
        login(&stage, "s-1", json!({"started_at": started_at, "expires_at": instant(&stage, 60)})).await;
        stage.server.advance(Duration::from_secs(61));
        let first = ended(&stage, "s-1").await;
        settled(&stage, &first["ended_by"]).await;

        // Nothing new: it is over.
        let report = json!({"sub": "alice", "started_at": started_at});
        assert_eq!(stage.provider.put(&format!("{SESSIONS}/s-1"), report).await.expect(200)["state"], "ended");
        // The provider had given it more time before it ended.
        let longer = instant(&stage, 600);
        let report = json!({"sub": "alice", "started_at": started_at, "expires_at": longer, "participants": [{"client_id": "wiki"}, {"client_id": "shop"}]});
        let session = stage.provider.put(&format!("{SESSIONS}/s-1"), report).await.expect(201);
        assert_eq!(session["state"], "live");
        let session = stage.provider.get(&format!("{SESSIONS}/s-1")).await.expect(200);
        assert_eq!((&session["started_at"], &session["expires_at"]), (&json!(started_at), &json!(longer)));
        lives_on(&stage, "s-1").await;
        assert_eq!((wiki.calls().len(), shop.calls().len()), (1, 0));
        stage.server.advance(Duration::from_secs(601));
        ended(&stage, "s-1").await;
    }

    async fn who_is_late_in_a_session_that_ended_by_its_age_is_told_if_it_asked_and_joined_in_time(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = parties(&stage).await;
        let blog = stage.party("blog", json!({"delivery": {"on_expiry": "notify"}})).await;
        login(&stage, "s-1", json!({"expires_at": instant(&stage, 60), "participants": []})).await;
        let (in_time, too_late) = (instant(&stage, 10), instant(&stage, 70));
        stage.server.advance(Duration::from_secs(90));
        let session = ended(&stage, "s-1").await;
        let join = |client: &str, at: &str| json!({"op": "join", "sid": "s-1", "client_id": client, "joined_at": at});
        let reports = json!({"reports": [join("wiki", &in_time), join("shop", &in_time), join("blog", &too_late), join("wiki", &in_time)]});
        let results = stage.provider.post(REPORTS, reports).await.expect(200)["results"].clone();
        assert!(results.as_array().unwrap().iter().all(|result| result["state"] == "ended"), "{results}");
        let receipt = settled(&stage, &session["ended_by"]).await;
        assert_eq!((&receipt["deliveries"]["total"], &receipt["deliveries"]["late_joiners"]), (&json!(1), &json!(1)), "{receipt}");
        assert_eq!((wiki.calls().len(), shop.calls().len(), blog.calls().len()), (1, 0, 0));
    }

    async fn a_login_under_the_name_of_a_session_whose_time_was_up_is_a_session_of_its_own_and_is_not_logged_out(database) {
        let once_a_year = [("LOGOUTD_SCHEDULE__EXPIRY", "0 0 0 1 1 *")];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &once_a_year).await, &["ES256"]).await;
        let (wiki, _shop) = parties(&stage).await;
        login(&stage, "s-1", json!({"expires_at": instant(&stage, 60), "participants": [{"client_id": "wiki", "refresh_token": {"token": "rt-old"}}]})).await;
        stage.server.advance(Duration::from_secs(90));
        // Nobody has looked yet. Even another person may come by this name.
        let login = json!({"sub": "bob", "started_at": instant(&stage, -5), "participants": [{"client_id": "wiki", "refresh_token": {"token": "rt-new"}}]});
        let session = stage.provider.put(&format!("{SESSIONS}/s-1"), login.clone()).await.expect(201);
        assert_eq!(session["state"], "live");
        stage.provider.put(&format!("{SESSIONS}/s-1"), login).await.expect(200);
        assert_eq!(stage.provider.introspect("rt-old").await, json!({"active": false}));
        lives_on(&stage, "s-1").await;
        assert_eq!(stage.provider.introspect("rt-new").await["active"], true);
        let receipts = stage.admin.items(LOGOUTS).await;
        assert!(receipts.len() == 1 && receipts[0]["sessions_ended"] == 1 && receipts[0]["deliveries"]["total"] == 0, "{receipts:?}");
        assert!(wiki.calls().is_empty());
    }

    async fn what_a_provider_does_not_list_ends_as_expired_and_what_its_list_could_not_know_is_spared(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = parties(&stage).await;
        login(&stage, "s-1", json!({})).await;
        login(&stage, "s-2", json!({"participants": [{"client_id": "wiki", "refresh_token": {"token": "rt-2"}}, {"client_id": "shop"}]})).await;
        let keyed = json!({"reports": [{"op": "session", "sub": "dave", "key": "k-1"}]});
        stage.provider.post(REPORTS, keyed).await.expect(200);
        stage.server.advance(Duration::from_secs(120));
        login(&stage, "s-new", json!({})).await;
        let as_of = instant(&stage, -30);
        login(&stage, "s-told-late", json!({"started_at": instant(&stage, -600)})).await;

        let rehearsal = stage.provider.post(RECONCILE, json!({"live": ["s-1", "s-x"], "as_of": as_of, "dry_run": true})).await.expect(200);
        assert_eq!((&rehearsal["sessions_ended"], &rehearsal["deliveries"]["total"], &rehearsal["refresh_tokens_revoked"]), (&json!(1), &json!(1), &json!(1)));
        assert!(rehearsal.get("id").is_none() && stage.admin.items(LOGOUTS).await.is_empty(), "{rehearsal}");
        assert_eq!(state(&stage, "s-2").await, "live");

        let body = json!({"live": ["s-1", "s-x"], "as_of": as_of});
        let answer = stage.provider.post_with(RECONCILE, ("Idempotency-Key", "k"), body.clone()).await;
        assert!([201, 202].contains(&answer.status), "{}", answer.text);
        let id = answer.body["id"].clone();
        let receipt = settled(&stage, &id).await;
        assert_eq!((&receipt["target"], &receipt["reason"], &receipt["sessions_ended"]), (&json!({"reconcile": true}), &json!("expired"), &json!(1)));
        assert_eq!(receipt["occurred_at"], json!(as_of));
        assert_eq!((wiki.calls().len(), shop.calls().len()), (1, 0));
        assert_eq!(stage.provider.introspect("rt-2").await, json!({"active": false}));
        assert_eq!(state(&stage, "s-2").await, "ended");
        for sid in ["s-1", "s-new", "s-told-late"] {
            assert_eq!(state(&stage, sid).await, "live", "{sid}");
        }
        assert_eq!(stage.provider.items(&format!("{SESSIONS}?state=live")).await.len(), 4);
        let records = stage.admin.items("/v1/audit?act=sessions_reconciled").await;
        assert!(records.len() == 1 && records[0]["logout"] == id, "{records:?}");

        let again = stage.provider.post_with(RECONCILE, ("Idempotency-Key", "k"), body).await;
        assert_eq!((again.status, &again.body["id"]), (200, &id));
        stage.provider.post_with(RECONCILE, ("Idempotency-Key", "k"), json!({"live": ["s-1"]})).await.problem(422, "idempotency-key-reused");
        // Somebody said that it is over: more time does not bring it back.
        let report = json!({"sub": "alice", "expires_at": instant(&stage, 9000)});
        assert_eq!(stage.provider.put(&format!("{SESSIONS}/s-2"), report).await.expect(200)["state"], "ended");
        stage.provider.post(RECONCILE, json!({"live": [], "as_of": instant(&stage, 300)})).await.problem(422, "invalid-field");
    }

    async fn a_list_that_would_end_more_than_its_share_does_nothing(database) {
        let stage = Stage::set(database).await;
        let login = |n: usize| json!({"sid": format!("s-{n}"), "sub": format!("p-{n}")});
        let sessions: Vec<_> = (0..120).map(login).collect();
        stage.provider.post(SESSIONS, json!({"sessions": sessions})).await.expect(200);
        stage.server.advance(Duration::from_secs(120));
        let listed = |from: usize| (from..120).map(|n| format!("s-{n}")).collect::<Vec<_>>();
        for list in [listed(13), Vec::new()] {
            for dry_run in [true, false] {
                let problem = stage.provider.post(RECONCILE, json!({"live": list, "dry_run": dry_run})).await.problem(422, "reconcile-ends-too-much");
                let detail = problem["detail"].as_str().unwrap();
                let ends = 120 - list.len();
                assert!(detail.contains(&format!("{ends} of 120")) && detail.contains("at most 12 "), "{detail}");
            }
        }
        assert!(stage.admin.items(LOGOUTS).await.is_empty());
        assert!(stage.admin.items("/v1/audit?act=sessions_reconciled").await.is_empty());
        assert_eq!(stage.provider.items(&format!("{SESSIONS}?state=live&limit=1000")).await.len(), 120);
        assert_eq!(stage.provider.post(RECONCILE, json!({"live": listed(12)})).await.expect(201)["sessions_ended"], 12);
        // Ten are always allowed.
        assert_eq!(stage.provider.post(RECONCILE, json!({"live": listed(22)})).await.expect(201)["sessions_ended"], 10);
        stage.provider.post(RECONCILE, json!({"live": listed(33)})).await.problem(422, "reconcile-ends-too-much");
    }

    async fn everybody_may_be_reconciled_away_where_the_deployment_says_so(database) {
        let stage = everything_may_end(database).await;
        let login = |n: usize| json!({"sid": format!("s-{n}"), "sub": format!("p-{n}"), "participants": [{"client_id": "wiki"}]});
        for from in (0..1050).step_by(105) {
            let sessions: Vec<_> = (from..from + 105).map(login).collect();
            stage.provider.post(SESSIONS, json!({"sessions": sessions})).await.expect(200);
        }
        stage.server.advance(Duration::from_secs(120));
        let rehearsal = stage.provider.post(RECONCILE, json!({"live": [], "dry_run": true})).await.expect(200);
        assert_eq!((&rehearsal["sessions_ended"], &rehearsal["deliveries"]["total"]), (&json!(1050), &json!(1050)));
        let answer = stage.provider.post(RECONCILE, json!({"live": []})).await;
        assert_eq!((answer.status, &answer.body["state"]), (202, &json!("expanding")), "{}", answer.text);
        let receipt = until("all have ended", || async {
            let store = stage.server.tools().store;
            for work in store.open_works().await.unwrap() {
                drop(store.advance_work(&work, WorkRules { opening: effects::opening, by_age: age::opening }).await.unwrap());
            }
            let receipt = stage.receipt(&answer.body["id"]).await;
            (receipt["state"] != "expanding").then_some(receipt)
        }).await;
        assert_eq!((&receipt["sessions_ended"], &receipt["deliveries"]["total"]), (&json!(1050), &json!(1050)), "{receipt}");
        assert!(stage.provider.items(&format!("{SESSIONS}?state=live")).await.is_empty());
    }
}

async fn everything_may_end(database: &Database) -> Stage {
    let server = Server::start_with(database, Mode::Dev, &[("LOGOUTD_RECONCILE__PERCENT_MAX", "100")]).await;
    let stage = Stage::on(server, &["ES256"]).await;
    stage.register("wiki", "http://127.0.0.1:9/", json!({"delivery": {"on_expiry": "notify"}})).await;
    stage
}
