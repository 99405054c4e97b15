//! Following a logout: what is settled is told as it happens, once to each follower, and the receipt at the end.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::api::{Api, send};
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Reply;
use crate::harness::server::{Server, Stage};
use crate::harness::{DEADLINE, until};

use logoutd::config::Mode;

/// One event of a stream.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// Somebody who follows a logout.
pub(crate) struct Follower {
    response: reqwest::Response,
    buffer: String,
}

impl Follower {
    pub(crate) async fn of(api: &Api, logout: &Value, last: Option<&str>) -> Self {
        let request = api.request(Method::GET, &path(logout));
        let request = match last {
            Some(last) => request.header("Last-Event-ID", last),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, buffer: String::new() }
    }

    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    lines.map(|value| value.trim_start().to_owned()).collect::<Vec<_>>().join("\n")
                };
                let (name, id, data) = (field("event"), field("id"), field("data"));
                self.buffer = rest.to_owned();
                if !name.is_empty() {
                    return Some(Told { name, id, data: serde_json::from_str(&data).unwrap() });
                }
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk()).await.expect("something is told in time").unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Everything until the stream ends.
    pub(crate) async fn all(mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Some(told) = self.next().await {
            all.push(told);
        }
        all
    }
}

fn path(logout: &Value) -> String {
    format!("/v1/issuers/main/logouts/{}/events", logout["id"].as_str().unwrap())
}

fn names(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| told.name.as_str()).collect()
}

/// Changes rows behind the server's back.
async fn execute(database: &Database, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    match database.engine {
        Engine::Sqlite => drop(sqlx::query(sql).execute(&mut sqlx::SqliteConnection::connect(&database.url).await.unwrap()).await.unwrap()),
        Engine::Postgres => drop(sqlx::query(sql).execute(&mut sqlx::PgConnection::connect(&database.url).await.unwrap()).await.unwrap()),
    }
}

on_both_engines! {
    async fn each_delivery_is_told_as_it_is_settled_and_then_the_receipt(database) {
        let stage = Stage::set(database).await;
        let (wiki, _shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        wiki.answers([Reply::Status(503)]);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let mut follower = Follower::of(&stage.provider, &logout, None).await;
        let first = follower.next().await.unwrap();
        assert_eq!((first.name.as_str(), &first.data["client_id"], &first.data["state"]), ("settled", &json!("shop"), &json!("delivered")));
        assert!(first.id.ends_with(first.data["id"].as_str().unwrap()), "{first:?}");
        let rest = follower.all().await;
        assert_eq!(names(&rest), ["settled", "end"]);
        assert_eq!((&rest[0].data["client_id"], &rest[0].data["attempts"]), (&json!("wiki"), &json!(2)));
        assert_eq!(rest[1].data, stage.receipt(&logout["id"]).await);

        // Whoever comes later is told the same; whoever comes again, what he has not been told.
        let again = Follower::of(&stage.provider, &logout, None).await.all().await;
        assert_eq!(names(&again), ["settled", "settled", "end"]);
        let rest = Follower::of(&stage.provider, &logout, Some(&first.id)).await.all().await;
        assert_eq!(names(&rest), ["settled", "end"]);
        assert_eq!(rest[0].data["client_id"], "wiki");
    }

    async fn a_logout_with_nobody_to_tell_ends_at_once(database) {
        let stage = Stage::set(database).await;
        let logout = stage.logout(json!({"sid": "nobody-s"})).await;
        let told = Follower::of(&stage.provider, &logout, None).await.all().await;
        assert_eq!(names(&told), ["end"]);
        assert_eq!(told[0].data["state"], "settled");
    }

    async fn more_than_a_page_is_told_without_gap_and_without_repetition(database) {
        let stage = Stage::set(database).await;
        let clients: Vec<String> = (0..700).map(|n| format!("c-{n}")).collect();
        stage.login("s-1", "alice", &clients.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let told = Follower::of(&stage.provider, &logout, None).await.all().await;
        let ids: std::collections::BTreeSet<_> = told.iter().filter(|told| told.name == "settled").map(|told| told.id.clone()).collect();
        assert_eq!((told.len(), ids.len()), (701, 700), "clients nobody registered are settled as unreachable");
    }

    async fn only_who_may_see_the_receipt_follows_and_an_id_that_is_none_is_refused(database) {
        let stage = Stage::set(database).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let other = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        other.get(&path(&logout)).await.problem(404, "unknown-logout");
        stage.admin.get("/v1/issuers/main/logouts/01ARZ3NDEKTSV4RRFFQ69G5FAV/events").await.problem(404, "unknown-logout");
        stage.admin.get("/v1/issuers/main/logouts/none/events").await.problem(404, "unknown-logout");
        for id in ["", "1", "1.x", "x.01ARZ3NDEKTSV4RRFFQ69G5FAV", "99999999999999999999.01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            let request = stage.provider.request(Method::GET, &path(&logout)).header("Last-Event-ID", id);
            send(request).await.problem(400, "invalid-header");
        }
    }

    async fn followers_are_bounded_and_a_place_becomes_free_again(database) {
        let server = Server::start_with(database, Mode::Dev, &[("LOGOUTD_HTTP__STREAMS_MAX", "10")]).await;
        let stage = Stage::on(server, &["ES256"]).await;
        let party = stage.party("wiki", json!({})).await;
        party.always(Reply::Status(503));
        stage.login("s-1", "alice", &["wiki"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let followers = [Follower::of(&stage.provider, &logout, None).await, Follower::of(&stage.provider, &logout, None).await];
        stage.provider.get(&path(&logout)).await.problem(503, "unavailable");
        drop(followers);
        until("a place becomes free", || async {
            let response = stage.provider.request(Method::GET, &path(&logout)).send().await.unwrap();
            response.status().is_success().then_some(())
        })
        .await;
    }

    async fn many_followers_who_wait_leave_the_database_to_those_who_work(database) {
        let server = Server::start_with(database, Mode::Dev, &[("LOGOUTD_DATABASE__MAX_CONNECTIONS", "2")]).await;
        let stage = Stage::on(server, &["ES256"]).await;
        let party = stage.party("wiki", json!({})).await;
        party.answers([Reply::Status(503), Reply::Status(503)]);
        stage.login("s-1", "alice", &["wiki"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let mut followers = Vec::new();
        for _ in 0..20 {
            followers.push(Follower::of(&stage.provider, &logout, None).await);
        }
        stage.login("s-2", "bob", &["wiki"]).await;
        for follower in followers {
            assert_eq!(names(&follower.all().await), ["settled", "end"]);
        }
    }

    async fn a_logout_with_work_left_is_not_over(database) {
        let stage = Stage::set(database).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let id = logout["id"].as_str().unwrap();
        execute(database, &format!(
            "INSERT INTO works (id, kind, issuer_id, event_id, plan, position, created_at) VALUES ('w', 'expand', 'main', '{id}', '', '', 1)"
        )).await;
        let mut follower = Follower::of(&stage.provider, &logout, None).await;
        let early = tokio::time::timeout(Duration::from_millis(1500), follower.next()).await;
        assert!(early.is_err(), "{early:?}");
        execute(database, "UPDATE works SET done_at = 2").await;
        assert_eq!(names(&follower.all().await), ["end"]);
    }

    async fn a_stop_ends_streams_at_once(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        party.always(Reply::Status(404));
        stage.login("s-1", "alice", &["wiki"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        party.received(1).await;
        let follower = Follower::of(&stage.provider, &logout, None).await;
        let (told, ()) = tokio::join!(follower.all(), stage.server.stop());
        assert!(told.is_empty(), "{told:?}");
    }

    async fn a_wait_for_a_logout_ends_with_its_last_delivery_or_with_its_time(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        party.answers([Reply::Status(503)]);
        stage.login("s-1", "alice", &["wiki"]).await;
        let body = json!({"target": {"sid": "s-1"}, "reason": "user_logout"});
        let receipt = stage.provider.post_with("/v1/issuers/main/logouts", ("Prefer", "wait=15"), body).await.expect(201);
        assert_eq!((&receipt["state"], &receipt["deliveries"]["delivered"]), (&json!("settled"), &json!(1)));
        party.always(Reply::Status(404));
        stage.login("s-2", "alice", &["wiki"]).await;
        let body = json!({"target": {"sid": "s-2"}, "reason": "user_logout"});
        let receipt = stage.provider.post_with("/v1/issuers/main/logouts", ("Prefer", "wait=1"), body).await.expect(202);
        assert_eq!(receipt["state"], "delivering");
    }
}
