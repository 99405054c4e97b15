//! One trace from the posted logout to every attempt, told to a real collector, and to whoever is asked.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::api::{Api, send};
use crate::harness::database::on_both_engines;
use crate::harness::party::{Party, Reply};
use crate::harness::process::Process;
use crate::harness::server::{ISSUER, Stage};
use crate::harness::until;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SUB: &str = "alice-of-no-trace";
const SID: &str = "sid-of-no-trace";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// One span as a collector reads it.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    attributes: Vec<(String, String)>,
}

impl Span {
    fn attribute(&self, name: &str) -> &str {
        self.attributes.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// The fields of a message of Protocol Buffers: number and octets; of a number its value as octets.
fn fields(mut octets: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let key = varint(&mut octets);
        let value = match key & 7 {
            0 => varint(&mut octets).to_be_bytes().to_vec(),
            1 => take(&mut octets, 8),
            2 => {
                let length = usize::try_from(varint(&mut octets)).unwrap();
                take(&mut octets, length)
            }
            5 => take(&mut octets, 4),
            other => panic!("no field has the wire type {other}"),
        };
        found.push((key >> 3, value));
    }
    found
}

fn varint(octets: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let octet = take(octets, 1)[0];
        value |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number has ten octets at most");
}

fn take(octets: &mut &[u8], count: usize) -> Vec<u8> {
    let (head, tail) = octets.split_at(count);
    *octets = tail;
    head.to_vec()
}

fn inner<'a>(fields: &'a [(u64, Vec<u8>)], number: u64) -> impl Iterator<Item = &'a [u8]> + 'a {
    fields.iter().filter(move |(found, _)| *found == number).map(|(_, value)| value.as_slice())
}

/// `ExportTraceServiceRequest`: resource_spans (1), scope_spans (2), spans (2).
fn spans(body: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    for resource in inner(&fields(body), 1) {
        for scope in inner(&fields(resource), 2) {
            found.extend(inner(&fields(scope), 2).map(span));
        }
    }
    found
}

fn span(octets: &[u8]) -> Span {
    let fields = fields(octets);
    let hex = |number| inner(&fields, number).next().unwrap_or_default().iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let name = String::from_utf8(inner(&fields, 5).next().unwrap().to_vec()).unwrap();
    let attributes = inner(&fields, 9).map(attribute).collect();
    Span { trace: hex(1), id: hex(2), parent: hex(4), name, attributes }
}

fn attribute(octets: &[u8]) -> (String, String) {
    let pair = fields(octets);
    let key = String::from_utf8(inner(&pair, 1).next().unwrap().to_vec()).unwrap();
    let value = fields(inner(&pair, 2).next().unwrap());
    let text = match value.first() {
        Some((1, text)) => String::from_utf8(text.clone()).unwrap(),
        Some((3, number)) => u64::from_be_bytes(number.as_slice().try_into().unwrap()).to_string(),
        _ => String::new(),
    };
    (key, text)
}

/// A collector that takes spans over HTTP, and keeps what it was sent to the letter.
#[derive(Clone, Default)]
struct Collector {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    async fn open() -> (Self, String, JoinSet<()>) {
        let collector = Self::default();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", socket.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(collect)).with_state(collector.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(socket, router).await.unwrap() });
        (collector, url, tasks)
    }

    fn spans(&self) -> Vec<Span> {
        self.bodies.lock().unwrap().iter().flat_map(|body| spans(body)).collect()
    }
}

async fn collect(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if headers["content-type"] != "application/x-protobuf" || headers["x-tenant"] != "ours" {
        return StatusCode::BAD_REQUEST;
    }
    collector.bodies.lock().unwrap().push(body.to_vec());
    StatusCode::OK
}

async fn register(admin: &Api, uri: &str) -> Api {
    admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
    let client = json!({"backchannel_logout_uri": uri, "id_token_signed_response_alg": "ES256"});
    admin.put("/v1/issuers/main/clients/wiki", client).await.expect(201);
    admin.mint(json!({"role": "provider", "issuer": "main"})).await
}

on_both_engines! {
    async fn one_trace_leads_from_the_posted_logout_through_its_commit_to_every_attempt_also_over_a_restart(database) {
        let (collector, url, _tasks) = Collector::open().await;
        let headers = database.directory().join("otlp-headers");
        std::fs::write(&headers, "x-tenant: ours\n").unwrap();
        let settings = [("LOGOUTD_TELEMETRY__OTLP_ENDPOINT", url.as_str()), ("LOGOUTD_TELEMETRY__OTLP_HEADERS_FILE", headers.to_str().unwrap())];
        let mut process = Process::serve(database, &settings);
        let admin = process.admin().await;
        let party = Party::open(&process.base().await, "main", ISSUER, "wiki").await;
        party.answers([Reply::Status(503)]);
        let provider = register(&admin, &party.uri()).await;
        let login = json!({"sub": SUB, "participants": [{"client_id": "wiki"}]});
        provider.put(&format!("/v1/issuers/main/sessions/{SID}"), login).await.expect(201);
        let logout = json!({"target": {"sid": SID}, "reason": "user_logout"});
        let request = provider.request(reqwest::Method::POST, "/v1/issuers/main/logouts").json(&logout);
        let answer = send(request.header("traceparent", traceparent()).header("tracestate", "vendor=1").header("tracestate", "other=2")).await;
        answer.expect(202);
        party.received(1).await;
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0));
        let log = process.log();

        let mut process = Process::serve(database, &settings);
        party.trust(&format!("{}/main/jwks", process.base().await));
        let calls = party.received(2).await;
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0));

        let all = collector.spans();
        let ours: Vec<&Span> = all.iter().filter(|span| span.trace == TRACE).collect();
        let find = |name: &str| *ours.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} in {ours:#?}"));
        let (posted, committed) = (find("POST /v1/issuers/{iss}/logouts"), find("transaction.commit.commit"));
        assert_eq!((posted.parent.as_str(), posted.attribute("http.response.status_code")), (PARENT, "202"));
        assert_eq!(posted.attribute("http.route"), "/v1/issuers/{iss}/logouts");
        assert_eq!(committed.parent, posted.id);
        let mut attempts: Vec<&&Span> = ours.iter().filter(|span| span.name == "attempt").collect();
        attempts.sort_by_key(|span| span.attribute("http.request.resend_count").to_owned());
        let seen: Vec<_> = attempts.iter().map(|span| (span.parent.as_str(), span.attribute("http.response.status_code"), span.attribute("error.type"))).collect();
        assert_eq!(seen, [(committed.id.as_str(), "503", "recoverable"), (committed.id.as_str(), "200", "")]);
        for (call, attempt) in calls.iter().zip(&attempts) {
            assert_eq!(call.header("traceparent"), format!("00-{TRACE}-{}-01", attempt.id), "whoever is asked is below the attempt");
            assert_eq!(call.header("tracestate"), "vendor=1,other=2");
        }
        for body in collector.bodies.lock().unwrap().iter() {
            let text = String::from_utf8_lossy(body);
            assert!(![SUB, SID, "eyJ", "ldt_", "/backchannel-logout"].iter().any(|secret| text.contains(secret)), "{text}");
        }

        // The log can be found by the trace, and is JSON to the last line.
        let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let committed = lines.iter().find(|line| line["message"] == "a logout was committed").unwrap();
        assert_eq!(committed["trace_id"], TRACE);
        assert!(committed["request_id"].as_str().is_some_and(|id| id.len() == 26) && committed["span_id"].is_string(), "{committed}");
    }

    async fn a_stranger_has_nothing_recorded_and_a_caller_who_is_known_has(database) {
        const STRANGE: &str = "1af7651916cd43dd8448eb211c80319c";
        let (collector, url, _tasks) = Collector::open().await;
        let headers = database.directory().join("otlp-headers");
        std::fs::write(&headers, "x-tenant: ours\n").unwrap();
        let settings = [
            ("LOGOUTD_TELEMETRY__OTLP_ENDPOINT", url.as_str()),
            ("LOGOUTD_TELEMETRY__OTLP_HEADERS_FILE", headers.to_str().unwrap()),
            ("LOGOUTD_TELEMETRY__SAMPLE_PERCENT", "0"),
        ];
        let mut process = Process::serve(database, &settings);
        let admin = process.admin().await;
        let provider = register(&admin, "https://wiki.example/logout").await;
        let nobody = admin.with_token("ldt_of-nobody");
        let strange = format!("00-{STRANGE}-{PARENT}-01");
        for path in ["/nothing", "/healthz", "/main/jwks", "/v1/issuers/main/logouts"] {
            send(nobody.request(reqwest::Method::GET, path).header("traceparent", &strange)).await;
        }
        let logout = json!({"target": {"sid": SID}, "reason": "user_logout"});
        let request = provider.request(reqwest::Method::POST, "/v1/issuers/main/logouts").json(&logout);
        assert!([201, 202].contains(&send(request.header("traceparent", traceparent())).await.status));
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0));
        let told: Vec<_> = collector.spans().into_iter().map(|span| (span.trace, span.name)).collect();
        assert!(told.iter().all(|(trace, _)| trace == TRACE), "{told:?}");
        for name in ["POST /v1/issuers/{iss}/logouts", "transaction.commit.commit"] {
            assert!(told.iter().any(|(_, told)| told == name), "{name} in {told:?}");
        }
    }

    async fn without_a_collector_what_is_given_is_passed_on_as_it_came_and_what_cannot_be_read_is_not(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let given = traceparent();
        let (upper, zero) = (given.to_uppercase(), given.replace(TRACE, &"0".repeat(32)));
        let long = format!("{given}{}", "x".repeat(4000));
        let cases: [(&[&str], &str); 6] =
            [(&[&given], &given), (&[], ""), (&[&upper], ""), (&[&zero], ""), (&[&long], ""), (&[&given, &given], "")];
        for (number, (headers, expected)) in cases.into_iter().enumerate() {
            let sid = format!("s-{number}");
            stage.login(&sid, "alice", &["wiki"]).await;
            let logout = json!({"target": {"sid": sid}, "reason": "user_logout"});
            let request = stage.provider.request(reqwest::Method::POST, "/v1/issuers/main/logouts").json(&logout);
            let request = headers.iter().fold(request, |request, value| request.header("traceparent", *value)).header("tracestate", "a=1");
            send(request).await.expect(202);
            let calls = party.received(number + 1).await;
            assert_eq!(calls[number].header("traceparent"), expected, "{headers:?}");
            assert_eq!(calls[number].header("tracestate"), if expected.is_empty() { "" } else { "a=1" });
        }
    }

    async fn a_collector_that_is_away_costs_nothing_but_spans(database) {
        // Nobody listens there: the port was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut process = Process::serve(database, &[("LOGOUTD_TELEMETRY__OTLP_ENDPOINT", &format!("http://{free}/v1/traces"))]);
        let admin = process.admin().await;
        let party = Party::open(&process.base().await, "main", ISSUER, "wiki").await;
        let provider = register(&admin, &party.uri()).await;
        provider.put("/v1/issuers/main/sessions/s", json!({"sub": "a", "participants": [{"client_id": "wiki"}]})).await.expect(201);
        provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s"}, "reason": "user_logout"})).await.expect(202);
        assert!(party.only_call().await.header("traceparent").ends_with("-01"));
        until("what was lost is counted", || async {
            let text = admin.get("/metrics").await.text;
            let lost = text.lines().find_map(|line| line.strip_prefix("logoutd_spans_dropped_total{why=\"collector\"} ")).unwrap();
            (lost.parse::<f64>().unwrap() > 0.5).then_some(())
        })
        .await;
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0));
    }
}
