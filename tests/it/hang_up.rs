//! A caller who hangs up: what he sent whole happens once, what he sent in part does not happen.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::database::on_both_engines;
use crate::harness::server::{Server, Stage};
use crate::harness::until;

/// The request of a logout, octet by octet.
fn request(stage: &Stage, sid: &str) -> String {
    let body = logout(sid).to_string();
    format!(
        "POST /v1/issuers/main/logouts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nIdempotency-Key: key-of-{sid}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        stage.provider.token(),
        body.len()
    )
}

fn logout(sid: &str) -> Value {
    json!({"target": {"sid": sid}, "reason": "user_logout"})
}

async fn call(stage: &Stage, request: &str) -> TcpStream {
    let address = stage.server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn logouts_of(stage: &Stage, sid: &str) -> Vec<Value> {
    let found = stage.provider.post("/v1/issuers/main/logouts/search", json!({"sid": sid})).await.expect(200);
    found["items"].as_array().unwrap().clone()
}

/// Asks again under the same key, as a caller does who got no answer.
async fn ask_again(stage: &Stage, sid: &str) -> (u16, Value) {
    let key = format!("key-of-{sid}");
    let answer = stage.provider.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", &key), logout(sid)).await;
    (answer.status, answer.body)
}

on_both_engines! {
    async fn who_hangs_up_after_the_last_octet_has_logged_out_once(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let delays_ms = [0, 0, 1, 2, 4, 8, 16, 32];
        for (n, delay_ms) in delays_ms.into_iter().enumerate() {
            let sid = format!("s-{n}");
            stage.login(&sid, "alice", &["wiki"]).await;
            let stream = call(&stage, &request(&stage, &sid)).await;
            // Not to wait for anything, but to hang up at another moment each time.
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            drop(stream);
            let committed = until("the logout is committed although nobody waits for it", || async { logouts_of(&stage, &sid).await.pop() }).await;
            let (status, again) = ask_again(&stage, &sid).await;
            assert_eq!((status, &again["id"]), (200, &committed["id"]), "after {delay_ms} ms");
            assert_eq!((&again["sessions_ended"], logouts_of(&stage, &sid).await.len()), (&json!(1), 1));
            stage.settled(&committed["id"]).await;
        }
        assert_eq!(wiki.calls().len(), delays_ms.len());
    }

    async fn who_hangs_up_before_the_last_octet_has_done_nothing(database) {
        let stage = Stage::set(database).await;
        stage.login("s-1", "alice", &[]).await;
        let whole = request(&stage, "s-1");
        let mut stream = call(&stage, &whole[..whole.len() - 1]).await;
        stream.shutdown().await.unwrap();
        // The server has seen the end when it ends the connection itself.
        let mut rest = Vec::new();
        drop(tokio::time::timeout(crate::harness::DEADLINE, stream.read_to_end(&mut rest)).await.expect("the connection ends"));
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!((&session["state"], logouts_of(&stage, "s-1").await.len()), (&json!("live"), 0));
        // The key is not taken either.
        assert_eq!(ask_again(&stage, "s-1").await.0, 201);
    }

    async fn one_key_used_by_many_callers_who_all_hang_up_is_one_logout(database) {
        let stage = Stage::set(database).await;
        stage.login("s-1", "alice", &[]).await;
        let request = request(&stage, "s-1");
        for _ in 0..10 {
            drop(call(&stage, &request).await);
        }
        let (_, receipt) = ask_again(&stage, "s-1").await;
        // A stop waits for every request under way.
        let Stage { server, provider, .. } = stage;
        server.stop().await;
        let server = Server::start(database).await;
        let stage = Stage { admin: server.admin(), provider: server.nobody().with_token(provider.token()), server };
        let logouts = logouts_of(&stage, "s-1").await;
        assert_eq!((logouts.len(), &logouts[0]["id"]), (1, &receipt["id"]));
    }
}
