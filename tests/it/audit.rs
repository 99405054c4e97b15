//! The audit trail: one record for each act, a chain nobody can change unseen, and a verdict one can reach without the server.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::time::Duration;

use logoutd::config::Mode;
use logoutd::model::audit::Proof;
use logoutd::model::key::SigningAlg;
use logoutd::store::Keep;
use logoutd::token::audit::{Broken, Line, Report, Trail, Why, erase};
use logoutd::token::{JwkSet, generate};
use logoutd::upkeep::{Step, Tools, audit};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::harness::api::{Api, send};
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Reply;
use crate::harness::server::{DAY, Server, Stage};
use crate::harness::until;

/// A statement beside the server; the writer of SQLite is not disturbed by one that is short.
pub(crate) async fn execute(database: &Database, sql: &str) -> u64 {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    match database.engine {
        Engine::Sqlite => sqlx::SqliteConnection::connect(&database.url).await.unwrap().execute(sql).await.unwrap().rows_affected(),
        Engine::Postgres => sqlx::PgConnection::connect(&database.url).await.unwrap().execute(sql).await.unwrap().rows_affected(),
    }
}

/// Seals what there is.
pub(crate) async fn seal(stage: &Stage) {
    let tools = stage.server.tools();
    until("all is sealed", || async {
        while audit::step(&tools).await.unwrap() == Step::More {}
        (stage.admin.get("/v1/audit/head").await.expect(200)["unsealed"] == 0).then_some(())
    })
    .await;
}

/// The whole trail as an export.
pub(crate) async fn exported(api: &Api, query: &str) -> Vec<Value> {
    let (mut lines, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/audit/export?limit=3{query}{after}")).await.expect(200);
        lines.extend(page["items"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return lines,
        }
    }
}

async fn keys(stage: &Stage) -> String {
    stage.server.nobody().get("/v1/audit/keys").await.text
}

fn check(lines: &[Value], keys: &str, noted: &[String]) -> Result<Report, Broken> {
    let mut trail = Trail::new(&JwkSet::parse(keys).unwrap(), noted)?;
    for line in lines {
        trail.take(serde_json::from_value::<Line>(line.clone()).unwrap())?;
    }
    trail.end()
}

pub(crate) async fn verified(stage: &Stage) -> Result<Report, Broken> {
    check(&exported(&stage.admin, "").await, &keys(stage).await, &[])
}

async fn head(stage: &Stage) -> String {
    stage.admin.get("/v1/audit/head").await.expect(200)["head"].as_str().unwrap().to_owned()
}

/// What alarms say of the trail.
pub(crate) async fn alarms(stage: &Stage) -> String {
    let alarms = stage.admin.items("/v1/alarms?state=open").await;
    let broken = alarms.iter().filter(|alarm| alarm["kind"] == "audit_broken");
    broken.map(|alarm| alarm["message"].as_str().unwrap().to_owned() + "\n").collect()
}

async fn log_out(stage: &Stage, sub: &str) {
    stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": sub}, "reason": "admin"})).await.expect(201);
}

/// Nothing more is sealed, nothing is forgotten, and the alarm says why.
async fn stays_as_it_is(stage: &Stage, why: &str) {
    let tools = Tools { keep: Keep { audit: Duration::from_secs(1), ..stage.server.tools().keep }, ..stage.server.tools() };
    let before = stage.admin.items("/v1/audit?limit=1000").await.len();
    log_out(stage, "after that").await;
    let unsealed = stage.admin.get("/v1/audit/head").await.expect(200)["unsealed"].clone();
    assert_eq!((audit::step(&tools).await.unwrap(), audit::forget(&tools).await.unwrap()), (Step::Dry, Step::Dry));
    assert_eq!(stage.admin.get("/v1/audit/head").await.expect(200)["unsealed"], unsealed, "{why}");
    assert_eq!(stage.admin.items("/v1/audit?limit=1000").await.len(), before + 1, "{why}");
    let told = alarms(stage).await;
    assert!(told.contains(why), "{why}: {told:?}");
}

/// Some logouts by people with names, sealed two at a time.
async fn with_history(database: &Database) -> Stage {
    let stage = Stage::set(database).await;
    for n in 0..6 {
        let body = json!({"target": {"sub": format!("person-{n}")}, "reason": "admin", "actor": "desk", "note": "a reason"});
        stage.provider.post("/v1/issuers/main/logouts", body).await.expect(201);
        if n % 2 == 1 {
            seal(&stage).await;
        }
    }
    stage
}

fn logoutd(arguments: &[&str], stage: &Stage) -> Output {
    let variables = [("LOGOUTD_URL", stage.server.base.as_str()), ("LOGOUTD_TOKEN", stage.admin.token())];
    Command::new(env!("CARGO_BIN_EXE_logoutd")).args(arguments).env_clear().envs(variables).output().unwrap()
}

async fn command(arguments: &[&str], stage: &Stage) -> (Option<i32>, String, String) {
    let output = tokio::task::block_in_place(|| logoutd(arguments, stage));
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A record as an export shows it before it is sealed.
fn unsealed(line: &str) -> String {
    let mut line: Value = serde_json::from_str(line).unwrap();
    line["seq"] = Value::Null;
    line.as_object_mut().unwrap().retain(|name, _| ["type", "seq", "record"].contains(&name.as_str()));
    line.to_string()
}

on_both_engines! {
    async fn records_are_numbered_in_the_order_of_sealing_and_the_trail_verifies(database) {
        let stage = with_history(database).await;
        let report = verified(&stage).await.unwrap();
        // The key of the trail, an issuer, a token, and six logouts.
        assert_eq!((report.verified, report.unsealed), (9, 0), "{report:?}");
        let records = stage.admin.items("/v1/audit?limit=1000").await;
        let numbers: BTreeSet<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=9).collect());
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "late"}, "reason": "admin"})).await.expect(201);
        assert!(stage.admin.items("/v1/audit?limit=1").await[0]["seq"].is_null());
        let report = verified(&stage).await.unwrap();
        assert_eq!((report.verified, report.unsealed), (9, 1));
        assert!(report.unsealed_since.is_some());
        let head = stage.admin.get("/v1/audit/head").await.expect(200);
        assert_eq!((&head["seq"], &head["unsealed"]), (&json!(9), &json!(1)));
    }

    async fn every_column_of_a_sealed_record_is_guarded(database) {
        let stage = with_history(database).await;
        for (column, lie) in [
            ("id", "'01ARZ3NDEKTSV4RRFFQ69G5FAV'"), ("at", "at + 1"), ("act", "'logout_undone'"), ("act", "'no_act_of_ours'"), ("caller", "'nobody'"), ("role", "'auditor'"),
            ("actor", "'somebody else'"), ("actor", "NULL"), ("remote", "'192.0.2.1'"), ("remote", "NULL"), ("issuer_id", "NULL"),
            ("event_id", "NULL"), ("detail", "'{}'"), ("detail", "replace(detail, 'person-3', 'person-9')"), ("digest", "chain"),
            ("chain", "digest"), ("salts", "NULL"), ("salts", "replace(salts, 'A', 'B')"), ("erased", "'{\"/actor\":\"x\"}'"),
        ] {
            // The seventh record is the fourth logout.
            let before = check(&exported(&stage.admin, "").await, &keys(&stage).await, &[]);
            assert!(before.is_ok(), "{before:?}");
            execute(database, "CREATE TABLE was AS SELECT * FROM audit WHERE seq = 7").await;
            execute(database, &format!("UPDATE audit SET {column} = {lie} WHERE seq = 7")).await;
            match verified(&stage).await {
                Err(Broken { seq: Some((7, 7)), .. }) => {}
                other => panic!("{column} = {lie}: {other:?}"),
            }
            execute(database, "DELETE FROM audit WHERE seq = 7").await;
            execute(database, "INSERT INTO audit SELECT * FROM was").await;
            execute(database, "DROP TABLE was").await;
        }
    }

    async fn whoever_seals_raises_an_alarm_about_a_record_that_was_changed_lately(database) {
        let stage = with_history(database).await;
        let alarms = async || stage.admin.get("/v1/alarms?state=open").await.expect(200)["items"].clone();
        assert_eq!(alarms().await, json!([]));
        execute(database, "UPDATE audit SET caller = 'nobody' WHERE seq = 7").await;
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "person-7"}, "reason": "admin"})).await.expect(201);
        seal(&stage).await;
        let raised = alarms().await;
        assert_eq!((raised[0]["kind"].as_str(), raised.as_array().unwrap().len()), (Some("audit_broken"), 1), "{raised}");
        assert!(raised[0]["message"].as_str().unwrap().contains("record 7 "), "{raised}");
    }

    async fn nothing_is_built_on_a_last_head_that_somebody_rewrote(database) {
        let stage = with_history(database).await;
        execute(database, "CREATE TABLE was AS SELECT * FROM audit_heads").await;
        for lie in [
            // A chain that was made anew needs nobody's key, only to be signed.
            "chain = (SELECT digest FROM audit WHERE seq = 5) WHERE seq = 9",
            "seq = 8, chain = (SELECT chain FROM audit WHERE seq = 8) WHERE seq = 9",
            // A head that is old makes what it covers old.
            "at = 1000 WHERE seq = 9",
            "kid = 'another' WHERE seq = 9",
            "jws = (SELECT jws FROM was WHERE seq = 7) WHERE seq = 9",
            "jws = '' WHERE seq = 9",
        ] {
            execute(database, &format!("UPDATE audit_heads SET {lie}")).await;
            stays_as_it_is(&stage, "the last head of the audit trail is not as this server signed it").await;
            execute(database, "DELETE FROM audit_heads").await;
            execute(database, "INSERT INTO audit_heads SELECT * FROM was").await;
        }
        seal(&stage).await;
        assert!(verified(&stage).await.is_ok());
        // Who takes the key away gets no other in its place.
        execute(database, "DELETE FROM audit_keys").await;
        stays_as_it_is(&stage, "the key that signs the audit trail is not there").await;
    }

    async fn a_head_that_only_says_that_it_is_old_is_nothing_to_forget_behind(database) {
        let stage = with_history(database).await;
        let tools = Tools { keep: Keep { audit: 90 * DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        execute(database, "UPDATE audit_heads SET at = 1000 WHERE seq = 7").await;
        assert_eq!(audit::forget(&tools).await.unwrap(), Step::Dry);
        assert_eq!(stage.admin.get("/v1/audit/head").await.expect(200)["purged_to"], 0);
        let told = alarms(&stage).await;
        assert!(told.contains("over record 7, is not as this server signed it"), "{told:?}");
        // Nor is a checkpoint that this server did not sign.
        execute(database, "INSERT INTO audit_checkpoints (seq, chain, at, jws) SELECT seq, chain, at, jws FROM audit_heads WHERE seq = 5").await;
        stays_as_it_is(&stage, "the checkpoint of the audit trail is not as this server signed it").await;
    }

    async fn a_key_that_this_server_did_not_make_is_neither_announced_nor_published_nor_signed_with(database) {
        let stage = with_history(database).await;
        let own = keys(&stage).await;
        let foreign = generate(SigningAlg::Es256).unwrap();
        execute(database, &format!(
            "INSERT INTO audit_keys (kid, alg, state, public_jwk, sealed, created_at) VALUES ('{}', 'ES256', 'next', '{}', 'AAAA', 1)",
            foreign.kid, foreign.public_jwk
        )).await;
        log_out(&stage, "x").await;
        seal(&stage).await;
        assert_eq!(keys(&stage).await, own);
        let report = check(&exported(&stage.admin, "").await, &own, &[]).unwrap();
        assert_eq!((report.verified, report.head.unwrap().next), (10, None));
        let told = alarms(&stage).await;
        assert!(told.contains("the key that waits to sign the audit trail is not one that this server made"), "{told:?}");
        for sql in ["UPDATE audit_keys SET state = 'retired', sealed = '' WHERE state = 'active'", "UPDATE audit_keys SET state = 'active' WHERE state = 'next'"] {
            execute(database, sql).await;
        }
        stays_as_it_is(&stage, "the key that is to sign the audit trail is not one that this server made").await;
    }

    async fn a_record_that_this_server_did_not_write_is_never_sealed_and_the_others_are(database) {
        let stage = with_history(database).await;
        // What was erased from a sealed record, as somebody would who has the database alone; and a record that tells of it.
        let lines = exported(&stage.admin, "").await;
        let seventh = lines.iter().find(|line| line["seq"] == 7).unwrap();
        let mut record = seventh["record"].as_object().unwrap().clone();
        let mut proof = Proof { salts: serde_json::from_value(seventh["salts"].clone()).unwrap(), ..Proof::default() };
        assert_eq!(erase(&mut record, &mut proof, &|place, _| place == "/actor"), 1);
        let text = |places: &BTreeMap<String, String>| serde_json::to_string(places).unwrap();
        execute(database, &format!(
            "UPDATE audit SET actor = NULL, salts = '{}', erased = '{}' WHERE seq = 7", text(&proof.salts), text(&proof.erased)
        )).await;
        execute(database, "INSERT INTO audit (id, at, act, caller, role, detail, issuer_id)
                           SELECT '01ARZ3NDEKTSV4RRFFQ69G5FAV', at, 'subject_erased', caller, role, '{\"audit\":3}', issuer_id FROM audit WHERE seq = 7").await;
        execute(database, "INSERT INTO audit (id, at, act, caller, role, detail, issuer_id)
                           SELECT '01ARZ3NDEKTSV4RRFFQ69G5FAW', at, 'no_act_of_ours', caller, role, '{}', issuer_id FROM audit WHERE seq = 7").await;
        // And one that was written by this server, and changed before it was sealed.
        log_out(&stage, "changed").await;
        execute(database, "UPDATE audit SET caller = 'nobody' WHERE seq IS NULL AND act = 'logout_posted'").await;
        log_out(&stage, "own").await;
        let tools = stage.server.tools();
        while audit::step(&tools).await.unwrap() == Step::More {}
        let head = stage.admin.get("/v1/audit/head").await.expect(200);
        assert_eq!((&head["seq"], &head["unsealed"]), (&json!(10), &json!(3)));
        let newest = stage.admin.items("/v1/audit?limit=1").await.remove(0);
        assert_eq!((&newest["seq"], &newest["detail"]["target"]["sub"]), (&json!(10), &json!("own")));
        let told = alarms(&stage).await;
        assert!(told.contains("record 01ARZ3NDEKTSV4RRFFQ69G5FAV of the audit trail was not written by this server"), "{told:?}");
        assert_eq!(verified(&stage).await.unwrap_err().why, Why::ErasedUnsealed);
        execute(database, "DELETE FROM audit WHERE act = 'subject_erased'").await;
        assert_eq!(verified(&stage).await.unwrap_err().why, Why::ErasedUntold);
    }

    async fn what_was_forgotten_cannot_be_put_back_as_if_it_were_new(database) {
        let stage = with_history(database).await;
        let tools = Tools { keep: Keep { audit: 90 * DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        execute(database, "CREATE TABLE was AS SELECT * FROM audit WHERE seq = 6").await;
        stage.server.advance(Duration::from_secs(5));
        log_out(&stage, "old").await;
        seal(&stage).await;
        stage.server.advance(91 * DAY);
        log_out(&stage, "young").await;
        seal(&stage).await;
        while audit::forget(&tools).await.unwrap() == Step::More {}
        execute(database, "INSERT INTO audit SELECT * FROM was").await;
        execute(database, "UPDATE audit SET seq = NULL, digest = NULL, chain = NULL WHERE seq = 6").await;
        assert_eq!(audit::step(&tools).await.unwrap(), Step::Dry);
        assert_eq!(stage.admin.get("/v1/audit/head").await.expect(200)["unsealed"], 1);
        assert!(alarms(&stage).await.contains("put back before it was sealed"));
    }

    async fn heads_that_were_thinned_are_not_missed_and_one_that_was_removed_is(database) {
        let stage = Stage::set(database).await;
        // Some in one hour and some in others, whatever the hour is.
        for (n, minutes) in [1, 1, 1, 70, 1, 1, 130, 1].into_iter().enumerate() {
            log_out(&stage, &format!("p-{n}")).await;
            seal(&stage).await;
            stage.server.advance(Duration::from_secs(60 * minutes));
        }
        stage.server.advance(2 * DAY);
        log_out(&stage, "last").await;
        seal(&stage).await;
        let heads = async || exported(&stage.admin, "").await.iter().filter(|line| line["type"] == "head").count();
        let before = heads().await;
        let tools = Tools { keep: Keep { audit: 90 * DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        while audit::forget(&tools).await.unwrap() == Step::More {}
        assert!((4..=7).contains(&heads().await) && before > 8, "{before} before, {} left", heads().await);
        assert!(verified(&stage).await.is_ok());
        // The one before the last is the last of its hour.
        execute(database, "DELETE FROM audit_heads WHERE seq = (SELECT max(seq) FROM audit_heads WHERE seq < (SELECT max(seq) FROM audit_heads))").await;
        assert_eq!(verified(&stage).await.unwrap_err().why, Why::HeadMissing);
    }

    async fn what_was_removed_put_in_swapped_or_cut_off_is_found(database) {
        let stage = with_history(database).await;
        let (kept, trusted) = (head(&stage).await, keys(&stage).await);
        let found = async || check(&exported(&stage.admin, "").await, &trusted, &[]).unwrap_err();
        let restore = async || {
            execute(database, "DELETE FROM audit").await;
            execute(database, "INSERT INTO audit SELECT * FROM was").await;
        };
        execute(database, "CREATE TABLE was AS SELECT * FROM audit").await;

        execute(database, "DELETE FROM audit WHERE seq = 5").await;
        assert_eq!(found().await, Broken { seq: Some((5, 5)), why: Why::Missing });
        restore().await;

        execute(database, "DELETE FROM audit WHERE seq <= 4").await;
        let Broken { seq, why } = found().await;
        assert_eq!((seq.unwrap().0, why), (1, Why::Missing));
        restore().await;

        for step in ["seq = -5 WHERE seq = 5", "seq = 5 WHERE seq = 6", "seq = 6 WHERE seq = -5"] {
            execute(database, &format!("UPDATE audit SET {step}")).await;
        }
        assert_eq!(found().await, Broken { seq: Some((5, 5)), why: Why::Changed });
        restore().await;

        // A record in another's place, with the links that record had.
        execute(database, "UPDATE audit SET caller = (SELECT caller FROM was WHERE seq = 1), detail = (SELECT detail FROM was WHERE seq = 1) WHERE seq = 8").await;
        assert_eq!(found().await.seq, Some((8, 8)));
        restore().await;

        // The tail, with the heads over it: only who kept a head knows.
        execute(database, "DELETE FROM audit WHERE seq > 7").await;
        assert_eq!(found().await, Broken { seq: Some((8, 9)), why: Why::Missing });
        execute(database, "DELETE FROM audit_heads WHERE seq > 7").await;
        let lines = exported(&stage.admin, "").await;
        assert_eq!(check(&lines, &trusted, &[]).unwrap().verified, 7);
        assert_eq!(check(&lines, &trusted, std::slice::from_ref(&kept)).unwrap_err(), Broken { seq: Some((8, 9)), why: Why::CutShort });
        // What is sealed after that does not lead to the head that was kept.
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "x"}, "reason": "admin"})).await.expect(201);
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "y"}, "reason": "admin"})).await.expect(201);
        seal(&stage).await;
        assert_eq!(check(&exported(&stage.admin, "").await, &trusted, &[kept]).unwrap_err(), Broken { seq: Some((8, 9)), why: Why::OtherChain });
    }

    async fn a_record_with_a_number_that_none_was_given_and_a_member_named_twice_are_found(database) {
        let stage = with_history(database).await;
        for seq in [0, -5] {
            execute(database, &format!(
                "INSERT INTO audit (id, at, act, caller, role, detail, seq, digest, chain)
                 SELECT 'zz', at, act, caller, role, detail, {seq}, digest, chain FROM audit WHERE seq = 7"
            )).await;
            assert_eq!(verified(&stage).await.unwrap_err(), Broken { seq: Some((0, 0)), why: Why::OutOfOrder });
            execute(database, "DELETE FROM audit WHERE id = 'zz'").await;
        }
        assert!(verified(&stage).await.is_ok());
        execute(database, "UPDATE audit SET detail = '{\"target\":{\"sub\":\"mallory\"},' || substr(detail, 2) WHERE seq = 7").await;
        assert_eq!(verified(&stage).await.unwrap_err().seq, Some((7, 7)));
    }

    async fn who_has_the_database_and_another_key_cannot_forge_a_trail(database) {
        let stage = with_history(database).await;
        let trusted = keys(&stage).await;
        // All of it is taken back, and sealed anew by a server with a key of its own.
        for sql in [
            "DELETE FROM audit_heads", "DELETE FROM audit_keys",
            "UPDATE audit SET seq = NULL, digest = NULL, chain = NULL, salts = NULL, erased = NULL, mac = NULL, caller = 'nobody' WHERE seq > 3",
            "UPDATE audit SET seq = NULL, digest = NULL, chain = NULL, salts = NULL, erased = NULL, mac = NULL",
        ] {
            execute(database, sql).await;
        }
        // To a server that starts, this is what an earlier version left that knew no trail.
        stage.server.stop().await;
        let server = Server::start(database).await;
        let stage = Stage { admin: server.admin(), provider: server.admin(), server };
        seal(&stage).await;
        assert_eq!(alarms(&stage).await, "");
        let lines = exported(&stage.admin, "").await;
        assert!(check(&lines, &keys(&stage).await, &[]).is_ok(), "whole by its own word");
        assert!(matches!(check(&lines, &trusted, &[]).unwrap_err().why, Why::Signed(_)));
    }

    async fn the_key_is_replaced_without_a_gap_and_who_trusts_the_first_one_trusts_its_successors(database) {
        let stage = with_history(database).await;
        let first = keys(&stage).await;
        for n in 0..2 {
            let answer = stage.admin.order("/v1/audit/keys/rotate").await.expect(202);
            let states: Vec<&Value> = answer["keys"].as_array().unwrap().iter().map(|key| &key["state"]).collect();
            assert_eq!(states.last().unwrap(), &"next", "{answer}");
            stage.admin.order("/v1/audit/keys/rotate").await.problem(409, "conflict");
            seal(&stage).await;
            // The first head of the new key.
            stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": format!("r-{n}")}, "reason": "admin"})).await.expect(201);
            seal(&stage).await;
        }
        assert_eq!(serde_json::from_str::<Value>(&keys(&stage).await).unwrap()["keys"].as_array().unwrap().len(), 3);
        let lines = exported(&stage.admin, "").await;
        // A head that was noted since is signed with a key that the first one leads to.
        let report = check(&lines, &first, &[head(&stage).await]).unwrap();
        assert_eq!(report.verified, 13);
        assert_eq!(stage.admin.items("/v1/audit?act=audit_key_rotated").await.len(), 2);
        // A retired key cannot sign any more, and every secret is sealed anew without it.
        assert_eq!(execute(database, "UPDATE audit_keys SET retired_at = retired_at WHERE state = 'retired' AND sealed = ''").await, 2);
        let resealed = stage.admin.order("/v1/keys/reseal").await.expect(200);
        assert_eq!(resealed["left"], 0, "{resealed}");
    }

    async fn what_was_kept_long_enough_goes_behind_a_signed_checkpoint(database) {
        let stage = with_history(database).await;
        let tools = Tools { keep: Keep { audit: 90 * DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        assert_eq!(audit::forget(&tools).await.unwrap(), Step::Dry);
        stage.server.advance(91 * DAY);
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "young"}, "reason": "admin"})).await.expect(201);
        seal(&stage).await;
        while audit::forget(&tools).await.unwrap() == Step::More {}
        let report = verified(&stage).await.unwrap();
        assert_eq!((report.purged_to, report.verified), (Some(9), 1));
        let until = report.purged_until.unwrap();
        assert!(until < stage.server.clock.now().minus(90 * DAY) && until > stage.server.clock.now().minus(92 * DAY), "{until}");
        let (_, said, _) = command(&["audit", "verify"], &stage).await;
        assert!(said.contains(&format!("records up to 9, sealed until {until}, are no longer kept")), "{said}");
        assert_eq!(stage.admin.items("/v1/audit?limit=1000").await.len(), 1);
        assert_eq!(stage.admin.get("/v1/audit/head").await.expect(200)["purged_to"], 9);
        // Who removes more than that has no checkpoint to hide it behind.
        execute(database, "DELETE FROM audit_checkpoints").await;
        assert_eq!(verified(&stage).await.unwrap_err(), Broken { seq: Some((1, 9)), why: Why::Missing });
    }

    async fn a_key_that_was_kept_verifies_what_its_successors_signed_when_its_own_records_are_gone(database) {
        let stage = with_history(database).await;
        let tools = Tools { keep: Keep { audit: 90 * DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        let first = keys(&stage).await;
        let log_out = async || stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "x"}, "reason": "admin"})).await.expect(201);
        for _ in 0..2 {
            stage.admin.order("/v1/audit/keys/rotate").await.expect(202);
            seal(&stage).await;
            log_out().await;
            seal(&stage).await;
        }
        let sealed = verified(&stage).await.unwrap().verified;
        stage.server.advance(91 * DAY);
        let young = at(&stage);
        log_out().await;
        seal(&stage).await;
        let part = check(&exported(&stage.admin, &format!("&since={young}")).await, &first, &[]).unwrap();
        assert_eq!((part.began_after, part.verified), (Some(sealed), 1));
        while audit::forget(&tools).await.unwrap() == Step::More {}
        let report = check(&exported(&stage.admin, "").await, &first, &[]).unwrap();
        assert_eq!((report.purged_to, report.verified), (Some(sealed), 1));
        // Without them only the present keys know the trail.
        let mut lines = exported(&stage.admin, "").await;
        lines.retain(|line| line["type"] != "announcement");
        assert!(matches!(check(&lines, &first, &[]).unwrap_err().why, Why::Signed(_)));
    }

    async fn a_part_of_the_trail_verifies_by_itself_and_shows_no_other_issuer_s_acts(database) {
        let stage = with_history(database).await;
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        seal(&stage).await;
        let trusted = keys(&stage).await;
        let bound = stage.admin.mint(json!({"role": "admin", "issuer": "other"})).await;
        let lines = exported(&bound, "").await;
        assert!(!serde_json::to_string(&lines).unwrap().contains("person-"), "{lines:?}");
        let report = check(&lines, &trusted, &[]).unwrap();
        assert_eq!((report.verified, report.withheld), (10, 9));
        bound.get("/v1/audit/export?issuer=main").await.problem(403, "forbidden");

        let between = stage.admin.get("/v1/audit/head").await.expect(200)["at"].as_str().unwrap().to_owned();
        stage.server.advance(DAY);
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "late"}, "reason": "admin"})).await.expect(201);
        seal(&stage).await;
        stage.server.advance(DAY);
        let later = check(&exported(&stage.admin, &format!("&since={}", at(&stage))).await, &trusted, &[]).unwrap();
        assert_eq!((later.verified, later.began_after), (0, Some(12)));
        let earlier = check(&exported(&stage.admin, &format!("&until={between}")).await, &trusted, &[]).unwrap();
        assert!(earlier.goes_on && earlier.verified <= 11, "{earlier:?}");
    }

    async fn two_that_seal_at_once_make_one_chain(database) {
        let stage = with_history(database).await;
        let other = match database.engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Server::start(database).await),
        };
        let tools: Vec<Tools> = std::iter::once(stage.server.tools()).chain(other.as_ref().map(Server::tools)).collect();
        for round in 0..5 {
            let posted = (0..8).map(|n| {
                let body = json!({"target": {"sub": format!("q-{round}-{n}")}, "reason": "admin"});
                async { stage.provider.post("/v1/issuers/main/logouts", body).await.expect(201) }
            });
            let sealed = tools.iter().chain(&tools).map(audit::step);
            let (_, sealed) = tokio::join!(futures_util::future::join_all(posted), futures_util::future::join_all(sealed));
            sealed.into_iter().for_each(|step| assert!(step.is_ok(), "{step:?}"));
        }
        seal(&stage).await;
        assert_eq!(verified(&stage).await.unwrap().verified, 49);
        assert_eq!(alarms(&stage).await, "");
    }

    async fn after_a_restart_the_chain_goes_on_from_where_it_ended(database) {
        let stage = with_history(database).await;
        let kept = head(&stage).await;
        stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sub": "unsealed"}, "reason": "admin"})).await.expect(201);
        stage.server.stop().await;
        let server = Server::start_with(database, logoutd::config::Mode::Dev, &[("LOGOUTD_SCHEDULE__AUDIT", "* * * * * *")]).await;
        let admin = server.admin();
        until("the new process has sealed what the old one left", || async {
            (admin.get("/v1/audit/head").await.expect(200)["unsealed"] == 0).then_some(())
        })
        .await;
        let keys = server.nobody().get("/v1/audit/keys").await.text;
        let report = check(&exported(&admin, "").await, &keys, &[kept]).unwrap();
        assert_eq!((report.verified, admin.items("/v1/audit?act=audit_key_created").await.len()), (10, 1));
    }

    async fn the_command_line_verifies_the_server_a_file_and_a_head(database) {
        let stage = with_history(database).await;
        let path = |name: &str| database.directory().join(name).to_str().unwrap().to_owned();
        let (code, trail, told) = command(&["audit", "export"], &stage).await;
        assert_eq!(code, Some(0), "{told}");
        let (_, jwks, _) = command(&["audit", "keys"], &stage).await;
        let (_, noted, _) = command(&["audit", "head"], &stage).await;
        for (name, text) in [("trail.jsonl", &trail), ("jwks.json", &jwks), ("head.jws", &noted)] {
            std::fs::write(path(name), text).unwrap();
        }
        let (code, said, told) = command(&["audit", "verify"], &stage).await;
        assert_eq!((code, said.lines().next()), (Some(0), Some("the trail is whole: 9 records verified")), "{told}");
        let offline = ["audit", "verify", &path("trail.jsonl"), "--keys", &path("jwks.json"), "--head", &path("head.jws")];
        let alone = tokio::task::block_in_place(|| Command::new(env!("CARGO_BIN_EXE_logoutd")).args(offline).env_clear().output().unwrap());
        assert_eq!(alone.status.code(), Some(0), "{}", String::from_utf8_lossy(&alone.stderr));
        let (_, said, _) = command(&[&offline[..], &["--json"]].concat(), &stage).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["whole"], &said["verified"], &said["head"]["seq"]), (&json!(true), &json!(9), &json!(9)));

        std::fs::write(path("trail.jsonl"), trail.replace("person-3", "person-4")).unwrap();
        let (code, said, told) = command(&offline, &stage).await;
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(told.contains("record 7: it is not as it was sealed"), "{told}");
        let cut: Vec<&str> = trail.lines().filter(|line| !line.contains("person-4") && !line.contains("person-5")).collect();
        std::fs::write(path("trail.jsonl"), cut[..cut.len() - 1].join("\n")).unwrap();
        let (code, _, told) = command(&offline, &stage).await;
        assert!(code == Some(1) && told.contains("records 8 to 9: missing: the trail ends before a head"), "{told}");
        std::fs::write(path("trail.jsonl"), format!("{}\n{{\"type\":\"until\"}}", cut[..cut.len() - 1].join("\n"))).unwrap();
        let (code, _, told) = command(&offline, &stage).await;
        assert!(code == Some(1) && told.contains("records 8 to 9: missing: the trail ends before a head"), "{told}");
        execute(database, "UPDATE audit SET caller = 'nobody' WHERE seq = 5").await;
        let (code, _, told) = command(&["audit", "verify"], &stage).await;
        assert!(code == Some(1) && told.contains("record 5"), "{told}");
    }

    async fn an_export_that_broke_off_before_it_began_is_not_whole(database) {
        let stage = with_history(database).await;
        let path = |name: &str| database.directory().join(name).to_str().unwrap().to_owned();
        let (_, trail, _) = command(&["audit", "export"], &stage).await;
        let (_, jwks, _) = command(&["audit", "keys"], &stage).await;
        std::fs::write(path("jwks.json"), jwks).unwrap();
        let (begun_at, keys) = (path("begun.jsonl"), path("jwks.json"));
        let verify = ["audit", "verify", &begun_at, "--keys", &keys];
        let key = trail.lines().next().unwrap();
        assert!(key.contains("\"type\":\"key\""), "{key}");
        for begun in ["", "\n\n", key] {
            std::fs::write(path("begun.jsonl"), begun).unwrap();
            for more in [&[][..], &["--json"]] {
                let (code, said, told) = command(&[&verify[..], more].concat(), &stage).await;
                assert!(code == Some(1) && said.is_empty() && told.contains("nothing to verify"), "{begun:?}: {said}{told}");
            }
        }
        let unsealed: Vec<_> = trail.lines().filter(|line| line.contains("\"type\":\"record\"")).take(1).map(unsealed).collect();
        std::fs::write(path("begun.jsonl"), unsealed.concat()).unwrap();
        let (code, _, told) = command(&verify, &stage).await;
        assert!(code == Some(1) && told.contains("nothing to verify: the 1 record in it is not sealed yet"), "{told}");
        // What is no longer kept, behind a checkpoint, or before where it was asked for, is no reason.
        let (code, _, told) = command(&["audit", "verify"], &stage).await;
        assert_eq!(code, Some(0), "{told}");
    }

    async fn the_trail_is_measured_and_its_heads_are_told_once(database) {
        let stage = with_history(database).await;
        let (tools, mut told) = (stage.server.tools(), audit::Told::default());
        for _ in 0..2 {
            audit::look(&tools, &mut told).await.unwrap();
        }
        let text = stage.admin.get("/metrics").await.text;
        for name in ["logoutd_audit_head_seq ", "logoutd_audit_head_age_seconds ", "logoutd_audit_unsealed ", "logoutd_audit_unsealed_seconds "] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
        }
    }

    async fn every_administrative_act_leaves_exactly_one_record_and_a_refusal_none(database) {
        let alarms = [("LOGOUTD_ALARMS__URL", "http://127.0.0.1:9/"), ("LOGOUTD_ALARMS__SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &alarms).await, &["ES256"]).await;
        let acts = Acts::of(&stage).await;
        let document = stage.server.nobody().get("/openapi.json").await.expect(200);
        let mut seen = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| ["put", "post", "patch", "delete"].contains(&key.as_str())) {
                seen.insert(format!("{method} {path}"));
            }
        }
        let classified: BTreeSet<String> = ACTS.iter().map(|(operation, ..)| *operation).chain(NO_ACTS.iter().copied()).map(str::to_owned).collect();
        assert_eq!(seen, classified, "every writing operation is an act, or is said to be none");
        for (operation, act, path, body) in ACTS {
            acts.one(operation, act, path, body).await;
        }
    }
}

fn at(stage: &Stage) -> String {
    stage.server.clock.now().to_string()
}

/// Operations that do not administer, or change nothing.
const NO_ACTS: &[&str] = &[
    // Reports of providers, and of gateways.
    "put /v1/issuers/{iss}/sessions/{sid}",
    "post /v1/issuers/{iss}/sessions",
    "post /v1/issuers/{iss}/reports",
    "delete /v1/issuers/{iss}/sessions/{sid}/participants/{client_id}",
    "post /v1/issuers/{iss}/refresh-tokens",
    "post /v1/issuers/{iss}/refresh-tokens/rotate",
    "post /v1/issuers/{iss}/access-tokens",
    // Questions.
    "post /{iss}/introspect",
    "put /{iss}/check/{profile}",
    "post /{iss}/check/{profile}",
    "delete /{iss}/check/{profile}",
    "patch /{iss}/check/{profile}",
    "post /v1/issuers/{iss}/sessions/search",
    "post /v1/issuers/{iss}/subjects/status",
    "post /v1/issuers/{iss}/subjects/secret",
    "post /v1/issuers/{iss}/logouts/search",
    "post /v1/issuers/{iss}/keys/check",
    // The provider's own word; `relay.rs` shows its record.
    "post /{iss}/backchannel-logout",
];

/// Each act with what it leaves, where and with what it is asked for. `<name>` stands for an id that was given out before; they are done in this order.
const ACTS: &[(&str, &str, &str, &str)] = &[
    ("post /v1/issuers", "issuer_created", "/v1/issuers", r#"{"id":"new","issuer":"https://new.example.com","signing_algs":["ES256"]}"#),
    ("patch /v1/issuers/{iss}", "issuer_changed", "/v1/issuers/new", r#"{"session_max_age":3600}"#),
    ("delete /v1/issuers/{iss}", "issuer_deleted", "/v1/issuers/new", ""),
    (
        "put /v1/issuers/{iss}/clients/{client_id}",
        "client_put",
        "/v1/issuers/main/clients/extra",
        r#"{"id_token_signed_response_alg":"ES256"}"#,
    ),
    (
        "post /v1/issuers/{iss}/clients",
        "client_put",
        "/v1/issuers/main/clients",
        r#"{"client_id":"more","id_token_signed_response_alg":"ES256"}"#,
    ),
    ("delete /v1/issuers/{iss}/clients/{client_id}", "client_deleted", "/v1/issuers/main/clients/extra", ""),
    ("post /v1/issuers/{iss}/clients/{client_id}/pause", "client_paused", "/v1/issuers/main/clients/wiki/pause", ""),
    ("post /v1/issuers/{iss}/clients/{client_id}/resume", "client_resumed", "/v1/issuers/main/clients/wiki/resume", ""),
    ("post /v1/issuers/{iss}/clients/{client_id}/suspend", "client_suspended", "/v1/issuers/main/clients/wiki/suspend", ""),
    ("post /v1/issuers/{iss}/clients/{client_id}/unsuspend", "client_unsuspended", "/v1/issuers/main/clients/wiki/unsuspend", ""),
    ("post /v1/issuers/{iss}/clients/{client_id}/test", "client_tested", "/v1/issuers/main/clients/wiki/test", ""),
    ("post /v1/issuers/{iss}/keys/rotate", "key_created", "/v1/issuers/main/keys/rotate", "{}"),
    ("delete /v1/issuers/{iss}/keys/{kid}", "key_withdrawn", "/v1/issuers/main/keys/<key>", ""),
    ("post /v1/issuers/{iss}/keys/import", "key_imported", "/v1/issuers/main/keys/import", "<pem>"),
    ("post /v1/keys/reseal", "secrets_resealed", "/v1/keys/reseal", ""),
    ("post /v1/audit/keys/rotate", "audit_key_rotated", "/v1/audit/keys/rotate", ""),
    ("post /v1/api-tokens", "api_token_created", "/v1/api-tokens", r#"{"role":"auditor"}"#),
    ("post /v1/api-tokens/{id}/rotate", "api_token_rotated", "/v1/api-tokens/<token>/rotate", r#"{"overlap_s":60}"#),
    ("delete /v1/api-tokens/{id}", "api_token_revoked", "/v1/api-tokens/<token>", ""),
    (
        "post /v1/issuers/{iss}/cut-offs",
        "cut_off_ordered",
        "/v1/issuers/main/cut-offs",
        r#"{"scope":{"sub":"alice"},"not_before":"<now>"}"#,
    ),
    ("delete /v1/issuers/{iss}/cut-offs/{id}", "cut_off_lifted", "/v1/issuers/main/cut-offs/<cut-off>", ""),
    ("post /v1/alarms/test", "alarm_tried", "/v1/alarms/test", ""),
    ("post /v1/issuers/{iss}/denylist", "token_denied", "/v1/issuers/main/denylist", r#"{"jti":"a","expires_at":"<tomorrow>"}"#),
    ("delete /v1/issuers/{iss}/denylist/{id}", "denial_lifted", "/v1/issuers/main/denylist/<denial>", ""),
    ("post /v1/issuers/{iss}/subjects/secret/bump", "subject_secret_bumped", "/v1/issuers/main/subjects/secret/bump", r#"{"sub":"alice"}"#),
    ("post /v1/issuers/{iss}/logouts", "logout_posted", "/v1/issuers/main/logouts", r#"{"target":{"sid":"s-1"},"reason":"admin"}"#),
    ("post /v1/issuers/{iss}/deliveries/{id}/cancel", "delivery_cancelled", "/v1/issuers/main/deliveries/<delivery>/cancel", ""),
    ("post /v1/issuers/{iss}/deliveries/{id}/retry", "delivery_retried", "/v1/issuers/main/deliveries/<delivery>/retry", ""),
    ("post /v1/issuers/{iss}/deliveries/{id}/cancel", "delivery_cancelled", "/v1/issuers/main/deliveries/<delivery>/cancel", ""),
    (
        "post /v1/issuers/{iss}/deliveries/replay",
        "deliveries_replayed",
        "/v1/issuers/main/deliveries/replay",
        r#"{"client_id":"wiki","state":["cancelled"]}"#,
    ),
    ("post /v1/issuers/{iss}/logouts/{id}/undo", "logout_undone", "/v1/issuers/main/logouts/<logout>/undo", ""),
    ("post /{iss}/revoke", "token_revoked", "/main/revoke", "token=rt-2"),
    ("post /v1/issuers/{iss}/sessions/reconcile", "sessions_reconciled", "/v1/issuers/main/sessions/reconcile", r#"{"live":[]}"#),
    ("post /v1/issuers/{iss}/gaps", "gap_opened", "/v1/issuers/main/gaps", r#"{"since":"<then>"}"#),
    ("post /v1/issuers/{iss}/gaps/{id}/close", "gap_closed", "/v1/issuers/main/gaps/<gap>/close", ""),
    ("delete /v1/issuers/{iss}/subjects", "subject_erased", "/v1/issuers/main/subjects", r#"{"sub":"never seen"}"#),
];

struct Acts<'s> {
    stage: &'s Stage,
    given: tokio::sync::Mutex<BTreeMap<String, String>>,
    _wiki: crate::harness::party::Party,
}

impl<'s> Acts<'s> {
    async fn of(stage: &'s Stage) -> Self {
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(Reply::Status(503));
        stage.admin.patch("/v1/issuers/main", json!({"subject_secrets": true})).await.expect(200);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.login("s-2", "bob", &["wiki"]).await;
        stage.login("s-3", "carol", &["wiki"]).await;
        let token = json!({"sid": "s-2", "client_id": "wiki", "token": "rt-2"});
        stage.provider.post("/v1/issuers/main/refresh-tokens", token).await.expect(201);
        let given = BTreeMap::from([
            ("<pem>".to_owned(), json!({"pem": include_str!("pem/ed.pem")}).to_string()),
            ("<now>".to_owned(), at(stage)),
            ("<then>".to_owned(), at(stage)),
            ("<tomorrow>".to_owned(), (stage.server.clock.now().plus(Duration::from_hours(24))).to_string()),
        ]);
        // What began a minute ago is spared by no list.
        stage.server.advance(Duration::from_secs(120));
        Self { stage, given: tokio::sync::Mutex::new(given), _wiki: wiki }
    }

    async fn trail(&self) -> Vec<Value> {
        self.stage.admin.items("/v1/audit?limit=1000").await
    }

    async fn one(&self, operation: &str, act: &str, path: &str, body: &str) {
        let (mut path, mut body) = (path.to_owned(), body.to_owned());
        for (name, value) in self.given.lock().await.iter() {
            path = path.replace(name.as_str(), value);
            body = body.replace(name.as_str(), value);
        }
        let method = Method::from_bytes(operation.split(' ').next().unwrap().to_uppercase().as_bytes()).unwrap();
        // Secrets of subjects are the provider's alone.
        let caller = if operation.contains("/secret/") { &self.stage.provider } else { &self.stage.admin };
        let media_type = if path == "/main/revoke" { "application/x-www-form-urlencoded" } else { "application/json" };
        let ask = |api: &Api| {
            let request = api.request(method.clone(), &path).header("Logoutd-Actor", "carol@desk").header("Logoutd-Note", "by the book");
            send(if body.is_empty() { request } else { request.header("Content-Type", media_type).body(body.clone()) })
        };
        let before = self.trail().await.len();
        let auditor = self.stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        let refused = ask(&auditor).await;
        assert_eq!(refused.status, 403, "{operation}: {}", refused.text);
        assert_eq!(self.trail().await.len(), before + 1, "{operation}: a refusal leaves no record (the token that was minted does)");

        let answer = ask(caller).await;
        assert!(answer.is_success(), "{operation}: {}", answer.text);
        let trail = self.trail().await;
        assert_eq!(trail.len(), before + 2, "{operation} leaves one record: {:#?}", &trail[..2]);
        let record = &trail[0];
        assert_eq!(record["act"], act, "{operation}: {record}");
        assert!(record["caller"].is_string() && record["role"].is_string() && record["remote"] == "127.0.0.1", "{operation}: {record}");
        if path != "/main/revoke" {
            assert_eq!(
                (&record["actor"], &record["detail"]["note"]),
                (&json!("carol@desk"), &json!("by the book")),
                "{operation}: {record}"
            );
        }
        self.learn(act, &answer.body).await;
    }

    /// Ids that later acts name.
    async fn learn(&self, act: &str, answer: &Value) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut given = self.given.lock().await;
        match act {
            "key_created" => {
                let next = answer["keys"].as_array().unwrap().iter().find(|key| key["state"] == "next").unwrap();
                given.insert("<key>".to_owned(), text(&next["kid"]));
            }
            "api_token_created" => drop(given.insert("<token>".to_owned(), text(&answer["id"]))),
            "gap_opened" => drop(given.insert("<gap>".to_owned(), text(&answer["id"]))),
            "cut_off_ordered" => drop(given.insert("<cut-off>".to_owned(), text(&answer["id"]))),
            "token_denied" => drop(given.insert("<denial>".to_owned(), text(&answer["id"]))),
            "logout_posted" => {
                given.insert("<logout>".to_owned(), text(&answer["id"]));
                given.insert("<delivery>".to_owned(), text(&answer["clients"][0]["delivery"]));
            }
            _ => {}
        }
    }
}
