//! What somebody must look at: raised, told by a signed webhook until it is taken, over when it is over.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use logoutd::config::Mode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::commands::Shell;
use crate::harness::database::on_both_engines;
use crate::harness::party::Reply;
use crate::harness::server::{Server, Stage};
use crate::harness::until;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One message as it came.
#[derive(Clone, Debug)]
struct Message {
    id: String,
    body: Value,
    answered: u16,
}

/// Somebody who is told: it verifies every signature, and fails as often as it is told to.
#[derive(Clone, Default)]
struct Hook {
    messages: Arc<Mutex<Vec<Message>>>,
    failures: Arc<Mutex<u32>>,
}

impl Hook {
    async fn open(failures: u32) -> (Self, String, JoinSet<()>) {
        let hook = Self { failures: Arc::new(Mutex::new(failures)), ..Self::default() };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", socket.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(hook.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(socket, router).await.unwrap() });
        (hook, url, tasks)
    }

    fn taken(&self) -> Vec<Message> {
        self.messages.lock().unwrap().iter().filter(|message| message.answered == 204).cloned().collect()
    }
}

async fn take(State(hook): State<Hook>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &STANDARD.decode(SECRET.trim_start_matches("whsec_")).unwrap());
    let signed = [format!("{id}.{timestamp}.").as_bytes(), &body].concat();
    let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    let genuine = aws_lc_rs::hmac::verify(&key, &signed, &signature).is_ok();
    let mut failures = hook.failures.lock().unwrap();
    let status = match (genuine, *failures) {
        (false, _) => StatusCode::UNAUTHORIZED,
        (true, 0) => StatusCode::NO_CONTENT,
        (true, _) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    *failures = failures.saturating_sub(1);
    hook.messages.lock().unwrap().push(Message { id, body: serde_json::from_slice(&body).unwrap(), answered: status.as_u16() });
    status
}

async fn told(stage: &Stage, hook: &Hook, state: &str) -> Message {
    until(&format!("it is told as {state}"), || async {
        // What failed is tried again later and later.
        stage.server.advance(Duration::from_secs(5));
        hook.taken().into_iter().find(|message| message.body["state"] == state)
    })
    .await
}

on_both_engines! {
    async fn an_alarm_is_told_signed_until_it_is_taken_and_told_again_when_it_is_over(database) {
        let (hook, url, _tasks) = Hook::open(2).await;
        let settings = [("LOGOUTD_ALARMS__URL", url.as_str()), ("LOGOUTD_ALARMS__SECRET", SECRET)];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &settings).await, &["ES256"]).await;
        let party = stage.party("wiki", json!({"delivery": {"confirm_rejections": 0}})).await;
        party.always(Reply::Status(400));
        for sid in ["s-1", "s-2", "s-3"] {
            stage.login(sid, "alice-of-no-alarm", &["wiki"]).await;
        }
        let receipt = stage.logout(json!({"sub": "alice-of-no-alarm"})).await;
        stage.settled(&receipt["id"]).await;

        let raised = told(&stage, &hook, "raised").await;
        assert_eq!((&raised.body["kind"], &raised.body["issuer"], &raised.body["about"]), (&json!("deliveries_given_up"), &json!("main"), &json!("wiki")), "{raised:?}");
        let tries: Vec<(String, u16)> = hook.messages.lock().unwrap().iter().map(|message| (message.id.clone(), message.answered)).take(3).collect();
        assert_eq!(tries, [(raised.id.clone(), 500), (raised.id.clone(), 500), (raised.id.clone(), 204)], "one message, told until it was taken");
        assert!(!raised.body.to_string().contains("alice") && raised.body["message"].as_str().is_some_and(|text| text.len() > 10));

        let operator = stage.admin.mint(json!({"role": "operator"})).await;
        let open = operator.items("/v1/alarms?state=open").await;
        assert_eq!(open.len(), 1, "{open:?}");
        assert_eq!((&open[0]["id"], &open[0]["count"], &open[0]["state"]), (&raised.body["id"], &json!(3), &json!("open")));
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        let other = stage.admin.mint(json!({"role": "admin", "issuer": "other"})).await;
        assert!(other.items("/v1/alarms").await.is_empty());
        other.get("/v1/alarms?issuer=main").await.problem(403, "forbidden");
        stage.provider.get("/v1/alarms").await.problem(403, "forbidden");

        // An hour without another one.
        stage.server.advance(Duration::from_hours(2));
        let cleared = told(&stage, &hook, "cleared").await;
        assert_eq!(cleared.body["id"], raised.body["id"]);
        assert_ne!(cleared.id, raised.id);
        assert!(operator.items("/v1/alarms?state=open").await.is_empty());
        assert_eq!(operator.items("/v1/alarms?state=cleared").await.len(), 1);
    }

    async fn whether_alarms_arrive_can_be_tried_out_as_often_as_one_likes(database) {
        let (hook, url, _tasks) = Hook::open(0).await;
        let settings = [("LOGOUTD_ALARMS__URL", url.as_str()), ("LOGOUTD_ALARMS__SECRET", SECRET)];
        let stage = Stage::on(Server::start_with(database, Mode::Dev, &settings).await, &["ES256"]).await;
        let told_of = async |instant: &str| {
            let is_it = |message: &Message| message.body["last_at"] == instant && message.body["state"] == "raised";
            until("the trial is told", || async { hook.taken().into_iter().find(is_it) }).await
        };
        let first = stage.admin.post("/v1/alarms/test", json!({})).await.expect(201);
        assert_eq!((&first["kind"], &first["told_at"], &first["attempts"]), (&json!("trial"), &Value::Null, &json!(0)), "{first}");
        let message = told_of(first["last_at"].as_str().unwrap()).await;
        assert!(message.body["message"].as_str().unwrap().starts_with("nothing is wrong"), "{message:?}");
        // Told at once though the one before may still be open.
        let second = stage.admin.post("/v1/alarms/test", json!({})).await.expect(201);
        assert_ne!(told_of(second["last_at"].as_str().unwrap()).await.id, message.id);
        told(&stage, &hook, "cleared").await;
        let acts = stage.admin.items("/v1/audit?act=alarm_tried").await;
        assert_eq!(acts.len(), 2, "{acts:?}");
        // The command waits until it has arrived.
        let arrived = Shell::at(&stage.server.base).json(&["alarm", "test"]);
        assert!(hook.taken().iter().any(|message| message.body["last_at"] == arrived["last_at"]), "{arrived}");
    }

    async fn nobody_tries_out_a_webhook_that_is_not_there(database) {
        let stage = Stage::set(database).await;
        let refused = stage.admin.post("/v1/alarms/test", json!({})).await.problem(409, "no-alarm-webhook");
        assert!(refused["detail"].as_str().unwrap().contains("alarms.url"), "{refused}");
        assert!(stage.admin.items("/v1/alarms").await.is_empty());
    }

    async fn a_parked_lane_is_an_alarm_as_long_as_it_is_parked_also_over_a_restart(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        party.always(Reply::Status(410));
        // Each probe takes another delivery, and is the last word on it.
        for number in 0..30 {
            stage.login(&format!("s-{number}"), "alice", &["wiki"]).await;
        }
        stage.logout(json!({"sub": "alice"})).await;
        let alarms = async |state: &str| stage.admin.items(&format!("/v1/alarms?kind=lane_parked&state={state}")).await;
        let raised = until("the lane is parked", || async { alarms("open").await.into_iter().next() }).await;
        assert_eq!(raised["about"], "wiki", "{raised}");
        party.always(Reply::Status(200));
        until("it is over", || async {
            stage.server.advance(Duration::from_secs(30));
            alarms("cleared").await.into_iter().next()
        })
        .await;
        assert!(alarms("open").await.is_empty());

        // Nobody was there to be told; whoever is configured later hears of it.
        let (hook, url, _tasks) = Hook::open(0).await;
        let clock = stage.server.clock.clone();
        let Stage { server, .. } = stage;
        server.stop().await;
        let settings = [("LOGOUTD_ALARMS__URL", url.as_str()), ("LOGOUTD_ALARMS__SECRET", SECRET)];
        let _server = Server::try_start(database, Mode::Dev, &settings, clock).await.unwrap();
        let message = until("it is told", || async { hook.taken().into_iter().find(|message| message.body["kind"] == "lane_parked") }).await;
        assert_eq!((&message.body["state"], &message.body["id"]), (&json!("cleared"), &raised["id"]));
    }

    async fn a_clock_ten_minutes_off_is_reported_by_two_hosts_that_agree_and_stops_nobody(database) {
        let stage = Stage::set(database).await;
        let date = httpdate::fmt_http_date(later());
        let party = stage.party("wiki", json!({})).await;
        party.always(Reply::Full { status: 200, headers: vec![("Date".to_owned(), date)], body: String::new() });
        // The same machine by another name is another host.
        stage.register("shop", &party.uri().replace("127.0.0.1", "localhost"), json!({})).await;
        for number in 0..6 {
            let sid = format!("s-{number}");
            stage.login(&sid, "alice", &["wiki", "shop"]).await;
            let receipt = stage.logout(json!({ "sid": sid })).await;
            stage.settled(&receipt["id"]).await;
        }
        let alarm = until("it is reported", || async { stage.admin.items("/v1/alarms?kind=clock_skew&state=open").await.into_iter().next() }).await;
        assert!(alarm["message"].as_str().unwrap().contains("clock"), "{alarm}");
        let ready = stage.server.nobody().get("/readyz").await.expect(200);
        assert_eq!(ready["status"], "ok");
        assert!(ready["detail"].as_str().unwrap().contains("ahead of this server's by "), "{ready}");
        // Other servers of this process say theirs too.
        until("its gauge shows it", || async {
            let text = stage.admin.get("/metrics").await.text;
            let skew: f64 = text.lines().find_map(|line| line.strip_prefix("logoutd_clock_skew_seconds "))?.parse().ok()?;
            (540.0..=660.0).contains(&skew).then_some(())
        })
        .await;
    }
}

#[expect(clippy::disallowed_methods, reason = "another machine has a clock of its own")]
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_mins(10)
}
