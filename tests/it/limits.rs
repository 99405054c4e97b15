//! How much of the server one caller may have: requests, connections, streams.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use logoutd::config::Mode;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::api::{Answer, Api, send};
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Reply;
use crate::harness::server::{Server, Stage};
use crate::harness::{DEADLINE, until};

/// More than any burst here, and not so many that it takes long.
const ENOUGH: usize = 400;

async fn stage(database: &Database, variables: &[(&str, &str)]) -> Stage {
    Stage::on(Server::start_with(database, Mode::Dev, variables).await, &["ES256"]).await
}

/// Reports until there are too many; how that was said.
async fn exhausted(caller: &Api) -> Answer {
    for number in 0..ENOUGH {
        let answer = caller.put(&format!("/v1/issuers/main/sessions/s-{number}"), json!({"sub": "alice"})).await;
        if answer.status == 429 {
            return answer;
        }
        answer.expect(201);
    }
    panic!("{ENOUGH} reports were taken");
}

async fn log_out(caller: &Api) -> u16 {
    caller.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s-0"}, "reason": "user_logout"})).await.status
}

on_both_engines! {
    async fn a_credential_that_reports_too_much_is_told_when_to_come_again_and_its_logouts_get_through(database) {
        let stage = stage(database, &[("LOGOUTD_LIMITS__PER_CREDENTIAL_PER_S", "1"), ("LOGOUTD_LIMITS__PER_CREDENTIAL_BURST", "10")]).await;
        let other = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let refused = exhausted(&stage.provider).await;
        assert_eq!(refused.header("retry-after"), "1");
        refused.problem(429, "rate-limited");
        assert!([201, 202].contains(&log_out(&stage.provider).await), "a logout is not refused because of reports");
        other.put("/v1/issuers/main/sessions/of-another", json!({"sub": "bob"})).await.expect(201);
        for path in ["/healthz", "/readyz", "/main/jwks", "/main/.well-known/openid-configuration"] {
            for _ in 0..30 {
                assert_ne!(stage.server.nobody().get(path).await.status, 429, "{path}");
            }
        }
        stage.server.advance(Duration::from_secs(1));
        stage.provider.put("/v1/issuers/main/sessions/later", json!({"sub": "alice"})).await.expect(201);
    }

    async fn all_who_ask_about_an_issuer_are_limited_together_and_logouts_apart(database) {
        let stage = stage(database, &[("LOGOUTD_LIMITS__PER_ISSUER_PER_S", "1"), ("LOGOUTD_LIMITS__PER_ISSUER_BURST", "10")]).await;
        let other = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        stage.admin.post("/v1/issuers", json!({"id": "far", "issuer": "https://far.example", "signing_algs": ["ES256"]})).await.expect(201);
        exhausted(&stage.provider).await.problem(429, "rate-limited");
        let refused = until("the other one is refused too", || async {
            let answer = other.get("/v1/issuers/main/logouts").await;
            (answer.status == 429).then_some(answer)
        }).await;
        assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
        assert!([201, 202].contains(&log_out(&other).await));
        stage.admin.get("/v1/issuers/far").await.expect(200);
        stage.admin.get("/v1/api-tokens").await.expect(200);
    }

    async fn neither_what_clients_revoke_nor_dry_runs_nor_providers_keep_a_logout_out(database) {
        let stage = stage(database, &[("LOGOUTD_LIMITS__PER_ISSUER_PER_S", "1"), ("LOGOUTD_LIMITS__PER_ISSUER_BURST", "10")]).await;
        let operator = stage.admin.mint(json!({"role": "operator", "issuer": "main"})).await;
        let secret = "the-secret-of-the-wiki-0123456789";
        stage.register("wiki", "https://wiki.example/logout", json!({"client_secret": secret})).await;
        let nobody = stage.server.nobody();
        let form = [("token", "t"), ("client_id", "wiki"), ("client_secret", secret)];
        until("the client revokes too much", || async { (nobody.form("/main/revoke", &form).await.status == 429).then_some(()) }).await;
        for (path, body) in [("logouts", json!({"target": {"sid": "s-0"}, "reason": "admin", "dry_run": true})), ("sessions/reconcile", json!({"live": [], "dry_run": true}))] {
            let path = format!("/v1/issuers/main/{path}");
            until("there are too many dry runs", || async { (stage.provider.post(&path, body.clone()).await.status == 429).then_some(()) }).await;
        }
        assert!([201, 202].contains(&log_out(&stage.provider).await), "neither is counted with what ends something");
        until("the provider logs out too much", || async { (log_out(&stage.provider).await == 429).then_some(()) }).await;
        for _ in 0..30 {
            assert!([201, 202].contains(&log_out(&operator).await), "an operator is not held by what others send");
        }
    }

    async fn a_credential_s_own_dry_runs_do_not_keep_its_logouts_out(database) {
        let stage = stage(database, &[("LOGOUTD_LIMITS__PER_CREDENTIAL_PER_S", "1"), ("LOGOUTD_LIMITS__PER_CREDENTIAL_BURST", "10")]).await;
        for (path, body) in [("logouts", json!({"target": {"sid": "s-0"}, "reason": "admin", "dry_run": true})), ("sessions/reconcile", json!({"live": [], "dry_run": true}))] {
            let path = format!("/v1/issuers/main/{path}");
            until("there are too many dry runs", || async { (stage.provider.post(&path, body.clone()).await.status == 429).then_some(()) }).await;
        }
        assert!([201, 202].contains(&log_out(&stage.provider).await));
    }

    async fn what_turns_out_to_be_no_order_does_not_keep_the_logouts_of_others_out(database) {
        let stage = stage(database, &[("LOGOUTD_LIMITS__PER_ISSUER_PER_S", "1"), ("LOGOUTD_LIMITS__PER_ISSUER_BURST", "10")]).await;
        let other = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let orders = [
            ("logouts", json!({"target": {"sid": "s-0"}, "reason": "admin"})),
            ("sessions/reconcile", json!({"live": []})),
            ("cut-offs", json!({"scope": {"sub": "alice"}, "not_before": stage.server.clock.now().to_string()})),
            ("denylist", json!({"jti": "j", "expires_at": stage.server.clock.now().plus(Duration::from_hours(1)).to_string()})),
        ];
        for _ in 0..5 {
            for (path, _) in &orders {
                other.post(&format!("/v1/issuers/main/{path}"), json!({"zz": 1})).await.problem(422, "unknown-member");
            }
            assert_eq!(other.form("/main/revoke", &[("tokn", "t")]).await.status, 400);
        }
        assert!([201, 202].contains(&log_out(&stage.provider).await));
        // Each that is one is counted.
        for (path, body) in orders {
            stage.server.advance(Duration::from_secs(20));
            let path = format!("/v1/issuers/main/{path}");
            until("there are too many", || async { (other.post(&path, body.clone()).await.status == 429).then_some(()) }).await;
            other.post(&path, json!({"zz": 1})).await.problem(429, "rate-limited");
        }
        stage.server.advance(Duration::from_secs(20));
        until("there are too many", || async { (other.form("/main/revoke", &[("token", "t")]).await.status == 429).then_some(()) }).await;
    }

    async fn a_token_with_a_rate_of_its_own_has_that_one(database) {
        let stage = stage(database, &[]).await;
        let slow = stage.admin.mint(json!({"role": "provider", "issuer": "main", "rate_per_s": 2})).await;
        assert_eq!(stage.admin.items("/v1/api-tokens").await[0]["rate_per_s"], 2);
        exhausted(&slow).await.problem(429, "rate-limited");
        for number in 0..30 {
            stage.provider.put(&format!("/v1/issuers/main/sessions/t-{number}"), json!({"sub": "alice"})).await.expect(201);
        }
        stage.admin.post("/v1/api-tokens", json!({"role": "auditor", "rate_per_s": 0})).await.problem(422, "invalid-field");
    }

    async fn a_client_at_an_oauth_endpoint_is_limited_as_such_a_client_is_told(database) {
        let stage = stage(database, &[("LOGOUTD_LIMITS__PER_CREDENTIAL_PER_S", "1"), ("LOGOUTD_LIMITS__PER_CREDENTIAL_BURST", "10")]).await;
        let secret = "the-secret-of-the-wiki-0123456789";
        stage.register("wiki", "https://wiki.example/logout", json!({"client_secret": secret})).await;
        let nobody = stage.server.nobody();
        let form = [("token", "t"), ("client_id", "wiki"), ("client_secret", secret)];
        let refused = until("there are too many", || async {
            let answer = nobody.form("/main/introspect", &form).await;
            (answer.status == 429).then_some(answer)
        }).await;
        assert_eq!((refused.body["error"].as_str(), refused.header("retry-after")), (Some("temporarily_unavailable"), "1"));
        assert_eq!(nobody.form("/main/revoke", &form).await.status, 200, "what ends something is counted apart");
    }

    async fn a_stream_ends_with_the_token_it_was_opened_with(database) {
        let stage = stage(database, &[]).await;
        let party = stage.party("wiki", json!({})).await;
        party.always(Reply::Status(503));
        stage.login("s-1", "alice", &["wiki"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let minted = stage.admin.post("/v1/api-tokens", json!({"role": "auditor"})).await.expect(201);
        let follower = stage.admin.with_token(minted["token"].as_str().unwrap());
        let path = format!("/v1/issuers/main/logouts/{}/events", logout["id"].as_str().unwrap());
        let mut stream = follower.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(stream.status(), 200);
        stage.admin.delete(&format!("/v1/api-tokens/{}", minted["id"].as_str().unwrap())).await.expect(204);
        let over = async { while let Ok(Some(_)) = stream.chunk().await {} };
        tokio::time::timeout(DEADLINE, over).await.expect("the stream ends while the logout is still open");
        assert_eq!(stage.receipt(&logout["id"]).await["state"], "delivering");
    }

    async fn one_token_holds_a_fifth_of_the_places_of_followers(database) {
        let stage = stage(database, &[("LOGOUTD_HTTP__STREAMS_MAX", "10")]).await;
        let party = stage.party("wiki", json!({})).await;
        party.always(Reply::Status(503));
        stage.login("s-1", "alice", &["wiki"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        let path = format!("/v1/issuers/main/logouts/{}/events", logout["id"].as_str().unwrap());
        let follow = async |caller: &Api| caller.request(Method::GET, &path).send().await.unwrap();
        let held = [follow(&stage.provider).await, follow(&stage.provider).await];
        assert!(held.iter().all(|stream| stream.status() == 200));
        send(stage.provider.request(Method::GET, &path)).await.problem(503, "unavailable");
        let other = follow(&stage.admin).await;
        assert_eq!(other.status(), 200);
    }
}

/// A connection from one address of this machine.
async fn from(address: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

async fn is_served(mut stream: TcpStream) -> bool {
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("it is answered or ended");
    asked.is_ok() && read.is_ok() && answer.starts_with("HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections_and_a_trusted_proxy_as_many_as_there_are() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let settings = [("LOGOUTD_HTTP__CONNECTIONS_PER_ADDRESS", "2"), ("LOGOUTD_HTTP__TRUSTED_PROXIES", "127.0.0.9")];
    let server = Server::start_with(&database, Mode::Dev, &settings).await;
    let address: SocketAddr = server.base.strip_prefix("http://").unwrap().parse().unwrap();
    let [one, other, proxy] = [2, 3, 9].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let held = [from(one, address).await, from(one, address).await];
    assert!(!is_served(from(one, address).await).await);
    assert!(is_served(from(other, address).await).await);
    drop(held);
    until("it has a place again", || async { is_served(from(one, address).await).await.then_some(()) }).await;
    let proxied = [from(proxy, address).await, from(proxy, address).await, from(proxy, address).await];
    for stream in proxied {
        assert!(is_served(stream).await);
    }
}
