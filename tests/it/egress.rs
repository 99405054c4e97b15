//! Networks as they are: receivers that ask who calls, prove another name than their address has, want a header, or stand behind a proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use logoutd::config::Mode;
use logoutd::egress::FixedNames;
use logoutd::upkeep::certificates::{Told, step};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use crate::harness::database::on_both_engines;
use crate::harness::server::{DAY, Server, Stage};
use crate::harness::until;

const CLIENT: &str = "/v1/issuers/main/clients/wiki";
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Somebody who vouches for others.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client's certificate for so long, and its key.
    fn client(&self, left: Duration) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["logoutd.example".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch() + left;
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// For a server of this name that talks only to those its client authority vouches for.
    fn acceptor(&self, name: &str, clients: &Self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(clients.0.der().clone()).unwrap();
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).allow_unauthenticated().build().unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.with_client_cert_verifier(verifier).with_single_cert(vec![leaf.der().clone()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are judged by real time")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// One request as a receiver saw it.
#[derive(Clone, Debug)]
struct Heard {
    server_name: Option<String>,
    certificate: bool,
    request: String,
}

/// A relying party behind TLS; refuses whoever shows no certificate, and repeats what it was sent.
struct Gateway {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    _tasks: JoinSet<()>,
}

impl Gateway {
    async fn open(acceptor: TlsAcceptor) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&heard);
        let (address, tasks) = listen(move |stream| {
            let (acceptor, sink) = (acceptor.clone(), Arc::clone(&sink));
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let session = stream.get_ref().1;
                let (server_name, certificate) = (session.server_name().map(str::to_owned), session.peer_certificates().is_some());
                while let Some(request) = read_request(&mut stream).await {
                    let status = if certificate { "200 OK" } else { "403 Forbidden" };
                    let body = format!("you said: {}", request.replace("\r\n", " "));
                    sink.lock().unwrap().push(Heard { server_name: server_name.clone(), certificate, request });
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        Self { address, heard, _tasks: tasks }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn uri_at(&self, host: &str) -> String {
        format!("https://{host}:{}/logout", self.address.port())
    }
}

async fn listen<F: Future<Output = ()> + Send + 'static>(
    personality: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            open.spawn(personality(stream));
        }
    });
    (address, tasks)
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(request).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

/// A proxy that builds tunnels for those who know its password, wherever they want to go, to one address.
struct Tunneller {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Tunneller {
    async fn open(to: SocketAddr) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&asked);
        let (address, tasks) = listen(move |mut stream| {
            let sink = Arc::clone(&sink);
            async move {
                let Some(request) = read_request(&mut stream).await else { return };
                let known = request.to_lowercase().contains("proxy-authorization: basic dxnlcjpwytpzcw==");
                sink.lock().unwrap().push(request);
                if !known {
                    stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let mut onward = TcpStream::connect(to).await.unwrap();
                // It ends when either side does.
                drop(tokio::io::copy_bidirectional(&mut stream, &mut onward).await);
            }
        })
        .await;
        Self { address, asked, _tasks: tasks }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// The only attempt at the only delivery of a client, once it is recorded.
async fn attempt(stage: &Stage) -> Value {
    until("an attempt is recorded", || async {
        let listed = stage.admin.items("/v1/issuers/main/deliveries?client_id=wiki&limit=1").await;
        let id = listed[0]["id"].as_str().unwrap();
        let delivery = stage.admin.get(&format!("/v1/issuers/main/deliveries/{id}")).await.expect(200);
        delivery["attempt_records"].get(0).cloned()
    })
    .await
}

fn client(uri: &str, delivery: Value) -> Value {
    json!({"backchannel_logout_uri": uri, "id_token_signed_response_alg": "ES256", "delivery": delivery})
}

const SECRET: &str = "aHVudGVyMjpodW50ZXIy";

on_both_engines! {
    async fn a_client_that_asks_for_a_certificate_a_name_and_a_header_gets_them_after_a_restart_too(database) {
        let (authority, clients, names) = (Authority::new(), Authority::new(), FixedNames::default());
        names.set("rp.example", &[LOOPBACK]);
        let gateway = Gateway::open(authority.acceptor("wiki.internal", &clients)).await;
        let server = Server::start_with_names(database, Mode::Dev, &[], &names).await;
        let stage = Stage::on(server, &["ES256"]).await;
        let (cert, key) = clients.client(90 * DAY);
        let body = client(&gateway.uri_at("rp.example"), json!({"ca_pem": authority.pem(),
            "tls": {"client_cert_pem": cert, "client_key_pem": key, "server_name": "wiki.internal"},
            "headers": {"Authorization": format!("Basic {SECRET}")}}));
        stage.admin.put(CLIENT, body).await.expect(201);

        let shown = stage.admin.get(CLIENT).await.expect(200);
        let tls = &shown["delivery"]["tls"];
        assert_eq!((&tls["client_key_registered"], &tls["server_name"]), (&json!(true), &json!("wiki.internal")), "{shown}");
        assert!(tls["client_cert_pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{shown}");
        assert!(tls["not_after"].as_str().unwrap().ends_with('Z'), "{shown}");
        assert_eq!(shown["delivery"]["header_names"], json!(["Authorization"]));
        let audit = stage.admin.get("/v1/audit").await.expect(200);
        let record = format!("{:?}", server_record(&stage).await);
        for text in [shown.to_string(), audit.to_string(), record] {
            assert!(!text.contains(SECRET) && !text.contains("PRIVATE KEY"), "{text}");
        }

        stage.login("s-1", "alice", &["wiki"]).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(stage.settled(&receipt["id"]).await["deliveries"]["delivered"], 1);
        let token = stage.provider.token().to_owned();
        stage.server.stop().await;
        let server = Server::start_with_names(database, Mode::Dev, &[], &names).await;
        let stage = Stage { admin: server.admin(), provider: server.nobody().with_token(&token), server };
        stage.login("s-2", "alice", &["wiki"]).await;
        let receipt = stage.logout(json!({"sid": "s-2"})).await;
        assert_eq!(stage.settled(&receipt["id"]).await["deliveries"]["delivered"], 1);
        assert!(stage.admin.post(&format!("{CLIENT}/test"), json!({})).await.expect(200)["status"] == 200);

        let heard = gateway.heard();
        assert_eq!(heard.len(), 3);
        for Heard { server_name, certificate, request } in heard {
            assert_eq!((server_name.as_deref(), certificate), (Some("wiki.internal"), true));
            assert!(request.contains(&format!("authorization: Basic {SECRET}\r\n")), "{request}");
            assert!(request.contains(&format!("host: rp.example:{}\r\n", gateway.address.port())), "{request}");
        }
    }

    async fn a_refusal_that_repeats_a_header_is_kept_without_it(database) {
        let (authority, clients) = (Authority::new(), Authority::new());
        let gateway = Gateway::open(authority.acceptor("127.0.0.1", &clients)).await;
        let stage = Stage::set(database).await;
        let delivery = json!({"ca_pem": authority.pem(), "headers": {"X-Api-Key": SECRET}});
        stage.admin.put(CLIENT, client(&gateway.uri_at("127.0.0.1"), delivery)).await.expect(201);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        let attempt = attempt(&stage).await;
        let excerpt = attempt["excerpt"].as_str().unwrap();
        assert!(excerpt.contains("x-api-key: [token]") && !excerpt.contains(SECRET) && !excerpt.contains("eyJ"), "{excerpt}");
    }

    async fn a_key_stays_with_its_certificate_and_headers_stay_until_they_are_taken_back(database) {
        let clients = Authority::new();
        let stage = Stage::set(database).await;
        let uri = "https://rp.example/logout";
        let ((cert, key), (other, other_key)) = (clients.client(90 * DAY), clients.client(90 * DAY));
        let put = async |delivery: Value| stage.admin.put(CLIENT, client(uri, delivery)).await;
        let shown = async || {
            let delivery = stage.admin.get(CLIENT).await.expect(200)["delivery"].clone();
            (delivery["tls"]["client_key_registered"].clone(), delivery["header_names"].clone())
        };
        put(json!({"tls": {"client_cert_pem": cert, "client_key_pem": key}, "headers": {"X-Key": "a"}})).await.expect(201);
        put(json!({"tls": {"client_cert_pem": cert}})).await.expect(200);
        assert_eq!(shown().await, (json!(true), json!(["X-Key"])));
        for tls in [json!({"client_cert_pem": other}), json!({"client_cert_pem": cert, "client_key_pem": null})] {
            let problem = put(json!({ "tls": tls })).await.problem(422, "invalid-field");
            assert_eq!(problem["errors"][0]["pointer"], "/delivery/tls/client_key_pem", "{problem}");
        }
        put(json!({"tls": {"client_cert_pem": other, "client_key_pem": other_key}, "headers": {"X-Other": "b"}})).await.expect(200);
        assert_eq!(shown().await, (json!(true), json!(["X-Other"])));
        // What is shown may be sent back as it is.
        let mut same = stage.admin.get(CLIENT).await.expect(200);
        same.as_object_mut().unwrap().retain(|name, _| name != "ignored" && name != "lane");
        stage.admin.put(CLIENT, same).await.expect(200);
        assert_eq!(shown().await, (json!(true), json!(["X-Other"])));
        put(json!({"headers": null})).await.expect(200);
        assert_eq!(shown().await, (Value::Null, Value::Null));
    }

    async fn what_cannot_be_used_is_refused_by_name_and_repeats_no_secret(database) {
        let clients = Authority::new();
        let stage = Stage::set(database).await;
        let ((cert, key), (_, other_key)) = (clients.client(90 * DAY), clients.client(90 * DAY));
        let expired = {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
            params.not_after = date_time_ymd(2020, 1, 1);
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let long = "v".repeat(5000);
        let many: serde_json::Map<String, Value> = (0..17).map(|at| (format!("X-{at}"), json!("v"))).collect();
        for (at, delivery) in [
            ("/delivery/tls/client_cert_pem", json!({"tls": {"client_cert_pem": "hello", "client_key_pem": key}})),
            ("/delivery/tls/client_cert_pem", json!({"tls": {"client_cert_pem": format!("{cert}{key}"), "client_key_pem": key}})),
            ("/delivery/tls/client_cert_pem", json!({"tls": {"client_cert_pem": expired.0, "client_key_pem": expired.1}})),
            ("/delivery/tls/client_cert_pem", json!({"tls": {"client_cert_pem": cert.repeat(11), "client_key_pem": key}})),
            ("/delivery/tls/client_cert_pem", json!({"tls": {"client_key_pem": key}})),
            ("/delivery/tls/client_key_pem", json!({"tls": {"client_cert_pem": cert}})),
            ("/delivery/tls/client_key_pem", json!({"tls": {"client_cert_pem": cert, "client_key_pem": other_key}})),
            ("/delivery/tls/client_key_pem", json!({"tls": {"client_cert_pem": cert, "client_key_pem": key.repeat(2)}})),
            ("/delivery/tls/client_key_pem", json!({"tls": {"client_cert_pem": cert, "client_key_pem": cert}})),
            ("/delivery/tls/server_name", json!({"tls": {"server_name": "10.0.0.1"}})),
            ("/delivery/tls/server_name", json!({"tls": {"server_name": "a b"}})),
            ("/delivery/tls/server_name", json!({"tls": {"server_name": "wiki.internal:443"}})),
            ("/delivery/headers/Host", json!({"headers": {"Host": "x"}})),
            ("/delivery/headers/Logoutd-Delivery", json!({"headers": {"Logoutd-Delivery": "x"}})),
            ("/delivery/headers/Cookie", json!({"headers": {"Cookie": "a=b"}})),
            ("/delivery/headers/X-Key", json!({"headers": {"X-Key": format!("{SECRET}\r\nHost: evil.example")}})),
            ("/delivery/headers", json!({"headers": {"X-Key\r\nHost": SECRET}})),
            ("/delivery/headers/x-key", json!({"headers": {"X-Key": "a", "x-key": "b"}})),
            ("/delivery/headers/X-Key", json!({"headers": {"X-Key": long}})),
            ("/delivery/headers", json!({ "headers": many })),
        ] {
            let problem = stage.admin.put(CLIENT, client("https://rp.example/logout", delivery.clone())).await.problem(422, "invalid-field");
            assert_eq!(problem["errors"][0]["pointer"], at, "{problem} to {delivery}");
            assert!(!problem.to_string().contains(SECRET) && !problem.to_string().contains("PRIVATE KEY-----"), "{problem}");
        }
        stage.admin.get(CLIENT).await.problem(404, "unknown-client");
    }

    async fn deliveries_leave_through_the_proxy_that_is_configured(database) {
        let (authority, clients) = (Authority::new(), Authority::new());
        let gateway = Gateway::open(authority.acceptor("rp.example", &clients)).await;
        let proxy = Tunneller::open(gateway.address).await;
        let url = format!("http://user:pa%3Ass@{}", proxy.address);
        let variables = [("LOGOUTD_EGRESS__PROXY", url.as_str())];
        // No name leads anywhere here: the proxy resolves them.
        let server = Server::start_with_names(database, Mode::Production, &variables, &FixedNames::default()).await;
        let stage = Stage::on(server, &["ES256"]).await;
        let (cert, key) = clients.client(90 * DAY);
        let tls = json!({"client_cert_pem": cert, "client_key_pem": key});
        let delivery = json!({"ca_pem": authority.pem(), "tls": tls});
        stage.admin.put(CLIENT, client(&gateway.uri_at("rp.example"), delivery)).await.expect(201);
        for uri in ["https://127.0.0.1/", "https://169.254.169.254/", "https://localhost/"] {
            let problem = stage.admin.put(CLIENT, client(uri, json!({}))).await.problem(422, "invalid-field");
            assert_eq!(problem["errors"][0]["pointer"], "/backchannel_logout_uri");
        }
        let renamed = client("https://rp.example/", json!({"tls": {"server_name": "wiki.internal"}}));
        let problem = stage.admin.put(CLIENT, renamed).await.problem(422, "invalid-field");
        assert_eq!(problem["errors"][0]["pointer"], "/delivery/tls/server_name");

        stage.login("s-1", "alice", &["wiki"]).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(stage.settled(&receipt["id"]).await["deliveries"]["delivered"], 1);
        assert!(gateway.heard()[0].certificate && !gateway.heard()[0].request.to_lowercase().contains("proxy"));
        let asked = proxy.asked();
        assert!(asked.iter().all(|asked| asked.starts_with(&format!("CONNECT rp.example:{} ", gateway.address.port()))), "{asked:?}");
        assert_eq!(attempt(&stage).await["remote_addr"], proxy.address.to_string());
    }

    async fn a_proxy_that_refuses_us_is_our_fault_and_no_receiver_s(database) {
        let proxy = Tunneller::open("127.0.0.1:9".parse().unwrap()).await;
        let url = format!("http://user:wrong@{}", proxy.address);
        let variables = [("LOGOUTD_EGRESS__PROXY", url.as_str())];
        let server = Server::start_with_names(database, Mode::Production, &variables, &FixedNames::default()).await;
        let stage = Stage::on(server, &["ES256"]).await;
        stage.admin.put(CLIENT, client("https://rp.example/logout", json!({}))).await.expect(201);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        let attempt = attempt(&stage).await;
        assert_eq!((&attempt["class"], &attempt["failure"]), (&json!("ours"), &json!("ours")), "{attempt}");
        assert!(!proxy.asked().is_empty());
    }

    async fn a_certificate_that_ends_soon_is_measured_and_spoken_of(database) {
        let clients = Authority::new();
        let server = Server::start_with_names(database, Mode::Dev, &[], &FixedNames::default()).await;
        let stage = Stage::on(server, &["ES256"]).await;
        let tools = stage.server.tools();
        let (cert, key) = clients.client(20 * DAY);
        let (long_cert, long_key) = clients.client(80 * DAY);
        for (client_id, cert, key) in [("wiki", cert, key), ("blog", long_cert, long_key)] {
            let body = client("https://rp.example/", json!({"ca_pem": clients.pem(), "tls": {"client_cert_pem": cert, "client_key_pem": key}}));
            stage.admin.put(&format!("/v1/issuers/main/clients/{client_id}"), body).await.expect(201);
        }
        // Other servers of this process look at theirs too: what is measured is looked at until it is this one's.
        let told = tokio::sync::Mutex::new(Told::default());
        let measured = async |what: &str, holds: &dyn Fn(&Metrics) -> bool| {
            until(what, || async {
                step(&tools, &mut *told.lock().await).await.unwrap();
                holds(&Metrics::of(&stage).await).then_some(())
            })
            .await;
        };
        measured("20 days are left", &|metrics| (metrics.left("client") - 20.0 * 86_400.0).abs() < 3600.0).await;
        measured("the authority has years", &|metrics| metrics.left("authority") > 365.0 * 86_400.0).await;
        measured("a month is told", &|metrics| metrics.told("30d") >= 1.0).await;
        stage.server.advance(15 * DAY);
        measured("a week is told", &|metrics| metrics.told("7d") >= 1.0).await;
        stage.server.advance(6 * DAY);
        measured("it is over", &|metrics| metrics.told("past") >= 1.0 && metrics.left("client") < 0.0).await;
        stage.admin.put(CLIENT, client("https://rp.example/", json!({}))).await.expect(200);
        measured("the next one is the first", &|metrics| metrics.left("client") > 50.0 * 86_400.0).await;
    }
}

/// The registration as the vault holds it.
async fn server_record(stage: &Stage) -> logoutd::model::client::ClientRecord {
    let (issuer, id) = (logoutd::model::IssuerId::parse("main").unwrap(), logoutd::model::ClientId::parse("wiki").unwrap());
    stage.server.store().client(&issuer, &id).await.unwrap().unwrap()
}

struct Metrics(String);

impl Metrics {
    async fn of(stage: &Stage) -> Self {
        Self(stage.admin.get("/metrics").await.text)
    }

    fn value(&self, start: &str, with: &str) -> Option<f64> {
        let line = self.0.lines().find(|line| line.starts_with(start) && line.contains(with))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn left(&self, kind: &str) -> f64 {
        self.value("logoutd_certificate_expires_seconds{", &format!("kind=\"{kind}\"")).unwrap()
    }

    fn told(&self, threshold: &str) -> f64 {
        self.value("logoutd_certificates_near_total{kind=\"client\"", &format!("threshold=\"{threshold}\"")).unwrap_or(0.0)
    }
}
