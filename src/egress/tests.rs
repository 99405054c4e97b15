//! The way out against real servers on loopback, most of them hostile.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use reqwest::dns::Resolve as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::pool::POOLS_MAX;
use super::*;
use crate::model::attempt::Outcome;
use crate::model::{DeliveryId, Timestamp};

const TOKEN: &str =
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.eyJpc3MiOiJodHRwczovL29wLmV4YW1wbGUiLCJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Far longer than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on loopback; dropping it ends its connections.
struct Receiver {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Handles each connection as the personality asks.
    async fn start<F: Future<Output = ()> + Send + 'static>(personality: impl Fn(TcpStream) -> F + Send + 'static) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                open.spawn(personality(stream));
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    /// Answers every request with the same octets and keeps the connection open.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::start(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while read_request(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            }
        })
        .await
    }

    fn url(&self) -> Url {
        Url::parse(&format!("http://{}/logout", self.address)).unwrap()
    }

    fn https(&self, host: &str) -> Url {
        Url::parse(&format!("https://{host}:{}/logout", self.address.port())).unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads one request with its body; none when the peer is done.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let octet = stream.read_u8().await.ok()?;
        request.push(octet);
        if request.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(request).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

async fn for_ever() {
    std::future::pending::<()>().await;
}

fn developer() -> Egress {
    Egress::new(EgressConfig { mode: Mode::Development, connect_timeout: Duration::from_secs(1), ..EgressConfig::default() }).unwrap()
}

/// A production deployment that knows a few names and lets registrations except loopback.
fn production(names: &[(&str, &[&str])]) -> (Egress, FixedNames) {
    let table = FixedNames::default();
    for (name, addresses) in names {
        set(&table, name, addresses);
    }
    let config = EgressConfig {
        ceiling: vec!["127.0.0.0/8".parse().unwrap()],
        connect_timeout: Duration::from_secs(1),
        dns_timeout: Duration::from_secs(1),
        names: Names::Fixed(table.clone()),
        ..EgressConfig::default()
    };
    (Egress::new(config).unwrap(), table)
}

fn set(table: &FixedNames, name: &str, addresses: &[&str]) {
    table.set(name, &addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>());
}

fn excepting(networks: &[&str], ca_pem: Option<String>) -> Network {
    Network { allow: networks.iter().map(|network| network.parse().unwrap()).collect(), ca_pem }
}

async fn post_within(egress: &Egress, url: &Url, network: &Network, timeout: Duration) -> Answer {
    post_as(egress, url, network, &Manner::PLAIN, timeout).await
}

async fn post_as(egress: &Egress, url: &Url, network: &Network, manner: &Manner, timeout: Duration) -> Answer {
    let delivery = DeliveryId::parse("01JBCDEFGHJKMNPQRSTVWXYZ01").unwrap();
    let now = Timestamp::parse("2026-11-22T02:00:00Z").unwrap();
    let post = Post { url, network, manner, token: TOKEN, delivery: &delivery, attempt: 3, timeout, now };
    tokio::time::timeout(PATIENCE, egress.post_logout_token(post)).await.expect("every post ends")
}

/// One post of a developer's deployment with time to spare: what takes longer than the patience fails its test.
async fn post(url: &Url) -> Answer {
    post_within(&developer(), url, &Network::default(), PATIENCE * 2).await
}

async fn post_briefly(url: &Url) -> Answer {
    post_within(&developer(), url, &Network::default(), Duration::from_millis(300)).await
}

async fn answer_to(answer: impl Into<Vec<u8>>) -> Answer {
    post(&Receiver::answering(answer).await.url()).await
}

fn status(answer: &Answer) -> u16 {
    match answer.outcome {
        Outcome::Answered { status, .. } => status,
        Outcome::Failed(_) => panic!("{answer:?}"),
    }
}

fn failure(answer: &Answer) -> Failure {
    match answer.outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Answered { .. } => panic!("{answer:?}"),
    }
}

// What is sent.

#[tokio::test]
async fn a_request_carries_exactly_one_form_field_its_length_and_no_wish_for_compression() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&seen);
    let receiver = Receiver::start(move |mut stream| {
        let sink = Arc::clone(&sink);
        async move {
            *locked(&sink) = read_request(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let answer = post(&receiver.url()).await;
    assert_eq!(answer.outcome, Outcome::Answered { status: 200, retry_after: None });
    assert_eq!((answer.remote_addr, answer.excerpt, answer.detail), (Some(receiver.address), None, None));

    let request = locked(&seen).clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /logout HTTP/1.1");
    lines.sort_unstable();
    let body_length = format!("content-length: {}", body.len());
    let host = format!("host: {}", receiver.address);
    let agent = format!("user-agent: {USER_AGENT}");
    assert_eq!(
        lines,
        [
            "accept: application/json",
            body_length.as_str(),
            "content-type: application/x-www-form-urlencoded",
            host.as_str(),
            "logoutd-attempt: 3",
            "logoutd-delivery: 01JBCDEFGHJKMNPQRSTVWXYZ01",
            agent.as_str(),
        ]
    );
    assert_eq!(body, format!("logout_token={TOKEN}"));
}

#[tokio::test]
async fn one_policy_reuses_its_connection() {
    let receiver = Receiver::answering(OK).await;
    let egress = developer();
    for _ in 0..3 {
        assert_eq!(status(&post_within(&egress, &receiver.url(), &Network::default(), PATIENCE).await), 200);
    }
    assert_eq!(receiver.connections(), 1);
}

/// Without a body or with one, the connection of another policy is never borrowed: it may lead where this policy may not go.
#[tokio::test]
async fn an_open_connection_is_not_lent_to_a_client_without_the_exception() {
    let authority = Authority::new();
    let receiver = authority.serve(&["rp.example"], OK).await;
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    let url = receiver.https("rp.example");
    let excepted = excepting(&["127.0.0.1/32"], Some(authority.pem()));
    assert_eq!(status(&post_within(&egress, &url, &excepted, PATIENCE).await), 200);
    let plain = excepting(&[], Some(authority.pem()));
    assert_eq!(failure(&post_within(&egress, &url, &plain, PATIENCE).await), Failure::Blocked);
    let untrusting = excepting(&["127.0.0.1/32"], None);
    assert_eq!(failure(&post_within(&egress, &url, &untrusting, PATIENCE).await), Failure::Tls);
}

// Receivers that do not answer.

#[tokio::test]
async fn nobody_listening_is_a_failure_to_connect() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let answer = post(&url).await;
    assert_eq!(failure(&answer), Failure::Connect);
    let detail = answer.detail.unwrap();
    assert!(detail.contains("refused") && !detail.contains("http://"), "{detail}");
}

#[tokio::test]
async fn a_receiver_that_never_reads_or_never_answers_costs_the_time_limit_and_no_more() {
    let deaf = Receiver::start(|stream| async move {
        for_ever().await;
        drop(stream);
    })
    .await;
    let mute = Receiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        for_ever().await;
    })
    .await;
    for receiver in [deaf, mute] {
        let begun = Instant::now();
        assert_eq!(failure(&post_briefly(&receiver.url()).await), Failure::Timeout);
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn a_head_that_drips_for_ever_is_cut_by_the_time_limit() {
    let receiver = Receiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        let mut answer = b"HTTP/1.1 200 OK\r\nX-Drip: ".to_vec();
        while stream.write_all(&answer).await.is_ok() {
            answer = b"x".to_vec();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(failure(&post_briefly(&receiver.url()).await), Failure::Timeout);
}

#[tokio::test]
async fn interim_answers_without_end_are_cut_by_the_time_limit() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"] {
        let receiver = Receiver::start(move |mut stream| async move {
            read_request(&mut stream).await;
            while stream.write_all(interim.as_bytes()).await.is_ok() {}
        })
        .await;
        assert_eq!(failure(&post_briefly(&receiver.url()).await), Failure::Timeout);
    }
}

#[tokio::test]
async fn a_connection_reset_at_any_point_is_broken_and_sent_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let after = Receiver::start(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_request(&mut stream).await;
            counter.fetch_add(1, Ordering::SeqCst);
            stream.set_zero_linger().unwrap();
        }
    })
    .await;
    assert_eq!(failure(&post(&after.url()).await), Failure::Broken);
    assert_eq!((requests.load(Ordering::SeqCst), after.connections()), (1, 1));

    let half_way = Receiver::start(|mut stream| async move {
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(failure(&post(&half_way.url()).await), Failure::Broken);

    let in_the_head = Receiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-").await.unwrap();
    })
    .await;
    assert_eq!(failure(&post(&in_the_head.url()).await), Failure::Broken);
}

#[tokio::test]
async fn a_reset_on_a_reused_connection_is_not_hidden_by_a_second_request() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let receiver = Receiver::start(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            while read_request(&mut stream).await.is_some() {
                if counter.fetch_add(1, Ordering::SeqCst) == 1 {
                    return stream.set_zero_linger().unwrap();
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let egress = developer();
    assert_eq!(status(&post_within(&egress, &receiver.url(), &Network::default(), PATIENCE).await), 200);
    assert_eq!(failure(&post_within(&egress, &receiver.url(), &Network::default(), PATIENCE).await), Failure::Broken);
    assert_eq!((requests.load(Ordering::SeqCst), receiver.connections()), (2, 1));
}

// Receivers that answer oddly.

#[tokio::test]
async fn a_status_counts_whatever_becomes_of_the_body() {
    let silent = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n".to_vec();
    let bad_chunking = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec();
    let not_gzip = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nzzzz".to_vec();
    let gigabyte = [b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n".as_slice(), "x".repeat(20_000).as_bytes()].concat();
    for answer in [silent, bad_chunking, not_gzip, gigabyte] {
        assert_eq!(status(&answer_to(answer).await), 200);
    }
    let torn = Receiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 100\r\n\r\nx").await.unwrap();
    })
    .await;
    assert_eq!(status(&post(&torn.url()).await), 204);
}

#[tokio::test]
async fn a_body_without_end_is_neither_awaited_nor_kept_coming() {
    for pause in [Duration::ZERO, Duration::from_millis(20)] {
        let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
        let receiver = Receiver::start(move |mut stream| {
            let ended = ended.clone();
            async move {
                read_request(&mut stream).await;
                let mut answer = b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                while stream.write_all(&answer).await.is_ok() {
                    answer = b"4\r\nwhy \r\n".to_vec();
                    tokio::time::sleep(pause).await;
                }
                ended.send(()).unwrap();
            }
        })
        .await;
        let answer = post(&receiver.url()).await;
        assert_eq!(status(&answer), 400);
        assert!(answer.excerpt.is_some_and(|kept| kept.starts_with("why why") && kept.len() <= 1024));
        tokio::time::timeout(PATIENCE, end.recv()).await.expect("the connection is closed").unwrap();
    }
}

#[tokio::test]
async fn no_more_of_a_large_body_is_read_than_its_limit() {
    /// What the buffers of two sockets hold at most; a reader without limit takes far more in its second of patience.
    const BUFFERED_MAX: usize = 32 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let (counter, ended) = (Arc::clone(&counter), ended.clone());
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n").await.unwrap();
            let piece = vec![b'x'; 1 << 20];
            while let Ok(octets) = stream.write(&piece).await {
                counter.fetch_add(octets, Ordering::SeqCst);
            }
            ended.send(()).unwrap();
        }
    })
    .await;
    assert_eq!(status(&post(&receiver.url()).await), 200);
    tokio::time::timeout(PATIENCE, end.recv()).await.expect("the connection is closed").unwrap();
    assert!(sent.load(Ordering::SeqCst) < BUFFERED_MAX, "{sent:?}");
}

#[tokio::test]
async fn what_is_not_http_is_garbled() {
    for answer in [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\n\r\n".to_vec(),
        b"HTTP/9.9 200 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 abc OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec(),
        [b"HTTP/1.1 200 OK\r\n".as_slice(), "X-Many: x\r\n".repeat(200).as_bytes(), b"\r\n"].concat(),
        [b"HTTP/1.1 200 OK\r\nX-Big: ".as_slice(), "x".repeat(1_000_000).as_bytes(), b"\r\n\r\n"].concat(),
    ] {
        let start = String::from_utf8_lossy(&answer[..16.min(answer.len())]).into_owned();
        assert_eq!(failure(&answer_to(answer).await), Failure::Garbled, "{start}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let target = Receiver::answering(OK).await;
    for code in [301, 302, 303, 307, 308] {
        let location = target.url();
        let answer = answer_to(format!("HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(status(&answer), code);
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn retry_after_is_read_from_the_answer() {
    let long = "9".repeat(10_000);
    for (value, delay) in [
        ("7", Some(7)),
        ("Sun, 22 Nov 2026 02:01:00 GMT", Some(60)),
        ("Sun, 22 Nov 2020 02:01:00 GMT", Some(0)),
        ("-1", None),
        ("later", None),
        (long.as_str(), None),
    ] {
        let answer = answer_to(format!("HTTP/1.1 429 Slow\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(answer.outcome, Outcome::Answered { status: 429, retry_after: delay.map(Duration::from_secs) });
    }
}

#[tokio::test]
async fn only_a_refusal_leaves_an_excerpt_and_never_the_token() {
    let body = format!("{{\"error\":\"invalid_request\",\u{1b}\"token\":\"{TOKEN}\"}}");
    for (code, kept) in [(400, true), (403, true), (200, false), (302, false), (500, false)] {
        let answer = answer_to(format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        let expected = kept.then(|| r#"{"error":"invalid_request","token":"[token]"}"#.to_owned());
        assert_eq!((status(&answer), answer.excerpt), (code, expected));
    }
}

// TLS.

/// A certificate authority nobody knows.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn acceptor(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        acceptor(certificate.der().clone(), &key, None)
    }

    async fn serve(&self, names: &[&str], answer: &'static [u8]) -> Receiver {
        serve_tls(self.acceptor(names, |_| {}), answer).await
    }
}

fn acceptor(
    certificate: tokio_rustls::rustls::pki_types::CertificateDer<'static>,
    key: &KeyPair,
    clients: Option<RootCertStore>,
) -> TlsAcceptor {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()))
}

async fn serve_tls(acceptor: TlsAcceptor, answer: &'static [u8]) -> Receiver {
    Receiver::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            serve(&mut stream, answer).await;
        }
    })
    .await
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8]) {
    while read_request(stream).await.is_some() {
        if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_where_it_was_registered() {
    let authority = Authority::new();
    let receiver = authority.serve(&["rp.example", "127.0.0.1"], OK).await;
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    for host in ["rp.example", "127.0.0.1"] {
        let url = receiver.https(host);
        let trusting = excepting(&["127.0.0.0/8"], Some(authority.pem()));
        let answer = post_within(&egress, &url, &trusting, PATIENCE).await;
        assert_eq!((status(&answer), answer.remote_addr), (200, Some(receiver.address)));
        for other in [None, Some(Authority::new().pem())] {
            let answer = post_within(&egress, &url, &excepting(&["127.0.0.0/8"], other), PATIENCE).await;
            assert_eq!(failure(&answer), Failure::Tls, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_expired_or_for_another_name_or_for_nobody_is_a_tls_failure() {
    let authority = Authority::new();
    let expired = authority.acceptor(&["rp.example"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = authority.acceptor(&["rp.example"], |params| params.not_before = date_time_ymd(2090, 1, 1));
    let other_name = authority.acceptor(&["other.example"], |_| {});
    let other_use = authority.acceptor(&["rp.example"], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["rp.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let leaf = CertificateParams::new(vec!["rp.example".to_owned()]).unwrap().signed_by(&key, &authority.0).unwrap();
    let demanding = acceptor(leaf.der().clone(), &key, Some(roots));

    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    let network = excepting(&["127.0.0.0/8"], Some(authority.pem()));
    for (what, acceptor) in [
        ("expired", expired),
        ("not yet valid", early),
        ("wrong name", other_name),
        ("wrong use", other_use),
        ("self-signed", acceptor(own.der().clone(), &key, None)),
        ("demands a certificate of ours", demanding),
    ] {
        let receiver = serve_tls(acceptor, OK).await;
        let answer = post_within(&egress, &receiver.https("rp.example"), &network, PATIENCE).await;
        assert_eq!(failure(&answer), Failure::Tls, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_a_tls_failure_and_one_that_hangs_a_failure_to_connect() {
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    let network = excepting(&["127.0.0.0/8"], None);
    let plain = Receiver::start(|mut stream| async move {
        stream.write_all(OK).await.unwrap();
        for_ever().await;
    })
    .await;
    let closing = Receiver::start(|mut stream| async move {
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let hanging = Receiver::start(|stream| async move {
        for_ever().await;
        drop(stream);
    })
    .await;
    for (receiver, expected) in [(plain, Failure::Tls), (closing, Failure::Tls), (hanging, Failure::Connect)] {
        let answer = post_within(&egress, &receiver.https("rp.example"), &network, PATIENCE * 2).await;
        assert_eq!(failure(&answer), expected, "{answer:?}");
    }
}

// The guard.

#[tokio::test]
async fn a_literal_is_blocked_in_every_spelling_without_a_connection() {
    let receiver = Receiver::answering(OK).await;
    let (egress, _) = production(&[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0",
    ] {
        let answer = post_within(&egress, &receiver.https(host), &Network::default(), PATIENCE).await;
        assert_eq!(failure(&answer), Failure::Blocked, "{host}: {answer:?}");
        assert!(egress.check(&receiver.https(host), &Network::default()).is_err(), "{host}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_is_blocked_when_any_of_its_addresses_is_forbidden() {
    let authority = Authority::new();
    let receiver = authority.serve(&["loopback.example", "mixed.example", "mapped.example"], OK).await;
    let (egress, _) = production(&[
        ("loopback.example", &["127.0.0.1"]),
        ("mixed.example", &["127.0.0.1", "10.0.0.1"]),
        ("mapped.example", &["::ffff:127.0.0.1"]),
        ("metadata.example", &["169.254.169.254"]),
        ("empty.example", &[]),
    ]);
    let none = excepting(&[], Some(authority.pem()));
    let loopback = excepting(&["127.0.0.0/8"], Some(authority.pem()));
    for (name, network, expected) in [
        ("loopback.example", &none, Failure::Blocked),
        ("mapped.example", &none, Failure::Blocked),
        ("metadata.example", &loopback, Failure::Blocked),
        ("mixed.example", &loopback, Failure::Blocked),
        ("empty.example", &loopback, Failure::Dns),
        ("missing.example", &loopback, Failure::Dns),
    ] {
        let answer = post_within(&egress, &receiver.https(name), network, PATIENCE).await;
        assert_eq!(failure(&answer), expected, "{name}: {answer:?}");
    }
    assert_eq!(receiver.connections(), 0);
    assert_eq!(status(&post_within(&egress, &receiver.https("loopback.example"), &loopback, PATIENCE).await), 200);
}

#[tokio::test]
async fn a_name_that_moves_to_a_forbidden_address_is_blocked_at_the_next_connection() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["rp.example"], |_| {});
    let receiver = Receiver::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let (egress, names) = production(&[("rp.example", &["127.0.0.1"])]);
    let network = excepting(&["127.0.0.1/32"], Some(authority.pem()));
    let url = receiver.https("rp.example");
    assert_eq!(status(&post_within(&egress, &url, &network, PATIENCE).await), 503);
    set(&names, "rp.example", &["127.0.0.2"]);
    assert_eq!(failure(&post_within(&egress, &url, &network, PATIENCE).await), Failure::Blocked);
    set(&names, "rp.example", &["127.0.0.1"]);
    assert_eq!(status(&post_within(&egress, &url, &network, PATIENCE).await), 503);
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn the_systems_own_answer_for_localhost_is_judged_like_any_other() {
    let config = EgressConfig::default();
    let guard = Arc::new(Guard::new(&config, &Network::default()));
    let (lookups, wanted) = (Arc::new(Lookups::new(Names::System, PATIENCE)), Arc::new(Wanted::AsAsked));
    let refused =
        GuardedResolver { guard, lookups, wanted }.resolve("localhost".parse().unwrap()).await.err().expect("loopback is refused");
    assert!(refused.to_string().contains("loopback"), "{refused}");
}

#[tokio::test]
async fn http_is_for_developers_alone() {
    let receiver = Receiver::answering(OK).await;
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    let mut url = receiver.url();
    url.set_host(Some("rp.example")).unwrap();
    let answer = post_within(&egress, &url, &excepting(&["127.0.0.0/8"], None), PATIENCE).await;
    assert_eq!((failure(&answer), receiver.connections()), (Failure::Blocked, 0));
}

#[tokio::test]
async fn an_exception_outside_todays_ceiling_no_longer_counts() {
    let authority = Authority::new();
    let receiver = authority.serve(&["rp.example"], OK).await;
    let names = FixedNames::default();
    set(&names, "rp.example", &["127.0.0.1"]);
    let egress = Egress::new(EgressConfig { names: Names::Fixed(names), ..EgressConfig::default() }).unwrap();
    let network = excepting(&["127.0.0.0/8"], Some(authority.pem()));
    assert_eq!(egress.check_network(&network), Err(BadNetwork::OutsideCeiling("127.0.0.0/8".parse().unwrap())));
    assert_eq!(failure(&post_within(&egress, &receiver.https("rp.example"), &network, PATIENCE).await), Failure::Blocked);
    assert_eq!(receiver.connections(), 0);
}

#[test]
fn a_connection_to_a_forbidden_address_trips_the_wire() {
    let config = EgressConfig { ceiling: vec!["10.0.0.0/8".parse().unwrap()], ..EgressConfig::default() };
    let terms = |way| Terms { network: excepting(&["10.0.0.0/8"], None), identity: None, way };
    let pool = Pool::new(&config, terms(Way::Direct));
    let tripped = |remote: &str| pool.tripped(remote.parse().unwrap(), None);
    assert!(tripped("127.0.0.1:443").is_some());
    assert!(tripped("[::ffff:192.168.0.1]:443").is_some());
    assert_eq!(tripped("10.1.1.1:443"), None);
    assert_eq!(tripped("8.8.8.8:443"), None);

    let proxy = proxy_at("proxy.example", 3128);
    let pool = Pool::new(&config, terms(Way::Proxied));
    pool.seen.remember(&["10.9.9.9".parse().unwrap()]);
    let tripped = |remote: &str| pool.tripped(remote.parse().unwrap(), Some(&proxy));
    assert_eq!(tripped("10.9.9.9:3128"), None);
    for other in ["10.9.9.9:443", "10.9.9.8:3128", "8.8.8.8:3128"] {
        assert!(tripped(other).is_some(), "{other}");
    }
}

// Around it.

#[test]
fn exceptions_are_checked_before_they_are_stored() {
    let (egress, _) = production(&[]);
    let check = |networks: &[&str], ca_pem: Option<String>| egress.check_network(&excepting(networks, ca_pem));
    assert_eq!(check(&[], None), Ok(()));
    assert_eq!(check(&["127.0.0.0/24"], Some(Authority::new().pem())), Ok(()));
    assert_eq!(check(&[], Some(Authority::new().pem() + &Authority::new().pem())), Ok(()));
    assert_eq!(check(&["127.0.0.0/8"; NETWORKS_MAX + 1], None), Err(BadNetwork::TooMany));
    assert_eq!(check(&["10.0.0.0/8"], None), Err(BadNetwork::OutsideCeiling("10.0.0.0/8".parse().unwrap())));
    assert_eq!(check(&["169.254.0.0/16"], None), Err(BadNetwork::OutsideCeiling("169.254.0.0/16".parse().unwrap())));
    assert_eq!(check(&[], Some("x".repeat(CA_PEM_OCTETS_MAX + 1))), Err(BadNetwork::CaTooLong));
    let key = KeyPair::generate().unwrap().serialize_pem();
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    for broken in [String::new(), "certificate".to_owned(), key, hollow] {
        assert_eq!(check(&[], Some(broken.clone())), Err(BadNetwork::CaMalformed), "{broken}");
    }
}

#[test]
fn pools_are_bounded_and_the_one_unused_for_longest_goes_first() {
    let mut pools = Pools::default();
    let make = |terms| Pool::new(&EgressConfig::default(), terms);
    let terms = |at: usize| Terms { network: excepting(&[], Some(at.to_string())), identity: None, way: Way::Direct };
    let first = pools.of(terms(0), make);
    for at in 1..POOLS_MAX {
        pools.of(terms(at), make);
    }
    assert!(Arc::ptr_eq(&first, &pools.of(terms(0), make)));
    pools.of(terms(POOLS_MAX), make);
    assert_eq!(pools.by_terms.len(), POOLS_MAX);
    assert!(Arc::ptr_eq(&first, &pools.of(terms(0), make)), "just used, so kept");
    assert!(!pools.by_terms.contains_key(&terms(1)), "unused for longest, so gone");
}

#[test]
fn a_lack_of_file_descriptors_is_our_fault() {
    for (code, ours) in [(24, true), (23, true), (111, false), (104, false)] {
        assert_eq!(outcome::is_ours(&std::io::Error::from_raw_os_error(code)), ours, "{code}");
    }
}

#[test]
fn a_proxy_in_the_environment_is_found_in_any_case() {
    let find = |vars: &[(&str, &str)]| ambient_proxy(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    for name in ["HTTP_PROXY", "https_proxy", "All_Proxy"] {
        assert_eq!(find(&[("PATH", "/bin"), (name, "http://proxy:3128")]).as_deref(), Some(name));
    }
    assert_eq!(find(&[("HTTP_PROXY", ""), ("NO_PROXY", "*"), ("MY_HTTP_PROXY", "x")]), None);
}

const RECEIVER_FOR_CHILD: &str = "LOGOUTD_TEST_RECEIVER";

#[tokio::test]
#[ignore = "the tests below run this one in a process of its own, with an environment of its own"]
async fn posts_from_a_process_of_its_own() {
    let url = Url::parse(&std::env::var(RECEIVER_FOR_CHILD).unwrap()).unwrap();
    assert_eq!(status(&post(&url).await), 200);
    assert_eq!(api_client(PATIENCE).unwrap().get(url).send().await.unwrap().status(), 200);
}

async fn posts_with_environment(environment: Vec<(&'static str, String)>) {
    let receiver = Receiver::answering(OK).await;
    let url = receiver.url().to_string();
    let run = move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "egress::tests::posts_from_a_process_of_its_own", "--ignored"])
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .envs(environment)
            .env(RECEIVER_FOR_CHILD, url)
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_never_used() {
    let proxy = Receiver::answering("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await;
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let address = format!("http://{}", proxy.address);
    posts_with_environment(names.map(|name| (name, address.clone())).to_vec()).await;
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_system_without_certificate_authorities_can_still_post() {
    let nowhere = tempfile::tempdir().unwrap();
    let file = nowhere.path().join("none.pem").display().to_string();
    posts_with_environment(vec![("SSL_CERT_FILE", file), ("SSL_CERT_DIR", nowhere.path().display().to_string())]).await;
}

#[tokio::test]
async fn the_command_lines_client_follows_no_redirect() {
    let target = Receiver::answering(OK).await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", target.url());
    let server = Receiver::answering(answer).await;
    assert_eq!(api_client(PATIENCE).unwrap().get(server.url()).send().await.unwrap().status(), 302);
    assert_eq!(target.connections(), 0);
}

// Other requests.

fn request<'a>(url: &'a Url, network: &'a Network) -> Request<'a> {
    let now = Timestamp::parse("2026-11-22T02:00:00Z").unwrap();
    let keep = Keep::Whole { octets_max: WHOLE_OCTETS_MAX };
    Request { method: Method::Get, url, network, headers: &[], body: &[], secrets: &[], keep, timeout: PATIENCE * 2, now }
}

async fn send(request: Request<'_>) -> Answer {
    tokio::time::timeout(PATIENCE, developer().send(request)).await.expect("every request ends")
}

#[tokio::test]
async fn another_request_says_what_it_is_told_to_and_nothing_twice() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let (url, network) = (receiver.url(), Network::default());
    let headers = [("Content-Type", "application/secevent+jwt"), ("Authorization", "Bearer secret")];
    let answer = send(Request { method: Method::Put, headers: &headers, body: b"signed", ..request(&url, &network) }).await;
    assert_eq!((status(&answer), answer.body.as_deref()), (200, Some(b"ok".as_slice())));
    let sent = requests.recv().await.unwrap();
    assert!(sent.starts_with("PUT /logout HTTP/1.1\r\n") && sent.ends_with("\r\n\r\nsigned"), "{sent}");
    for header in ["content-type: application/secevent+jwt\r\n", "authorization: Bearer secret\r\n", "content-length: 6\r\n"] {
        assert_eq!(sent.matches(header).count(), 1, "{sent}");
    }
    for headers in [[("A", "1"), ("a", "2")], [("a", "x\r\ny"), ("b", "1")], [("a b", "x"), ("b", "1")]] {
        let answer = send(Request { headers: &headers, ..request(&url, &network) }).await;
        assert_eq!(failure(&answer), Failure::Ours);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_body_is_given_only_whole_and_only_of_a_success() {
    let of = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let largest = "x".repeat(WHOLE_OCTETS_MAX);
    let torn = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}".to_owned();
    for (answer, kept) in [
        (of("200 OK", "{}"), Some("{}")),
        (of("200 OK", ""), Some("")),
        (of("200 OK", &largest), Some(largest.as_str())),
        (of("200 OK", &format!("{largest}x")), None),
        (torn, None),
        (of("400 Bad Request", "{}"), None),
        (of("500 Oops", "{}"), None),
    ] {
        let receiver = Receiver::start(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let (url, network) = (receiver.url(), Network::default());
        let answer = send(request(&url, &network)).await;
        assert_eq!(answer.body.as_deref().map(String::from_utf8_lossy).as_deref(), kept);
        assert_eq!(answer.excerpt.as_deref(), (status(&answer) == 400).then_some("{}"));
    }
}

#[tokio::test]
async fn a_secret_that_is_echoed_is_not_kept() {
    let body = "Basic dXNlcjpwYXNz is wrong, and so is correct horse";
    let answer = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let receiver = Receiver::answering(answer).await;
    let (url, network) = (receiver.url(), Network::default());
    let answer = send(Request { secrets: &["dXNlcjpwYXNz", "correct horse"], ..request(&url, &network) }).await;
    assert_eq!(answer.excerpt.as_deref(), Some("Basic [token] is wrong, and so is [token]"));
}

#[tokio::test]
async fn every_request_passes_the_guard() {
    let receiver = Receiver::answering(OK).await;
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    for host in ["127.0.0.1", "rp.example"] {
        let (url, network) = (receiver.https(host), Network::default());
        assert_eq!(failure(&egress.send(request(&url, &network)).await), Failure::Blocked);
    }
    assert_eq!(receiver.connections(), 0);
}

// What is shown, what is to be proved, what is said besides.

/// A certificate for a client, by an authority, with its key.
fn identity(authority: &Authority) -> Manner {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["logoutd.example".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let pem = params.signed_by(&key, &authority.0).unwrap().pem();
    Manner { identity: Some(Arc::new(Identity::new(&pem, &key.serialize_pem()))), ..Manner::PLAIN }
}

impl Authority {
    /// A server that talks only to those whom an authority vouches for.
    async fn serve_to_known(&self, names: &[&str], clients: &Self) -> Receiver {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(clients.0.der().clone()).unwrap();
        serve_tls(acceptor(leaf.der().clone(), &key, Some(roots)), OK).await
    }
}

#[tokio::test]
async fn a_certificate_is_shown_by_the_client_that_registered_it_and_its_connection_lent_to_nobody() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let receiver = authority.serve_to_known(&["rp.example"], &clients).await;
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"])]);
    let (url, network) = (receiver.https("rp.example"), excepting(&["127.0.0.0/8"], Some(authority.pem())));
    let known = identity(&clients);
    assert_eq!(status(&post_as(&egress, &url, &network, &known, PATIENCE).await), 200);
    assert_eq!(status(&post_as(&egress, &url, &network, &known.clone(), PATIENCE).await), 200);
    assert_eq!(receiver.connections(), 1, "one client shares its own connection");
    assert_eq!(failure(&post_within(&egress, &url, &network, PATIENCE).await), Failure::Tls, "nobody's");
    let stranger = identity(&Authority::new());
    assert_eq!(failure(&post_as(&egress, &url, &network, &stranger, PATIENCE).await), Failure::Tls, "of another authority");
    let other = identity(&clients);
    assert_eq!(status(&post_as(&egress, &url, &network, &other, PATIENCE).await), 200);
    assert_eq!(receiver.connections(), 4, "two certificates are two parties, though both are known");
}

fn proving(name: &str) -> Manner {
    Manner { server_name: Some(ServerName::parse(name).unwrap()), ..Manner::PLAIN }
}

/// A server that tells which server name was asked for, and what it was sent.
async fn serve_and_tell(acceptor: TlsAcceptor) -> (Receiver, tokio::sync::mpsc::UnboundedReceiver<(Option<String>, String)>) {
    let (seen, told) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |stream| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            while let Some(request) = read_request(&mut stream).await {
                seen.send((name.clone(), request)).unwrap();
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    (receiver, told)
}

#[tokio::test]
async fn another_server_name_is_asked_for_and_checked_while_the_host_stays_the_urls() {
    let authority = Authority::new();
    let (receiver, mut told) = serve_and_tell(authority.acceptor(&["wiki.internal"], |_| {})).await;
    // The server's name leads nowhere, and must not: nobody asks for its address.
    let (egress, _) = production(&[("rp.example", &["127.0.0.1"]), ("wiki.internal", &["203.0.113.7"])]);
    let network = excepting(&["127.0.0.0/8"], Some(authority.pem()));
    for host in ["rp.example", "127.0.0.1"] {
        let url = receiver.https(host);
        let answer = post_as(&egress, &url, &network, &proving("wiki.internal"), PATIENCE).await;
        assert_eq!((status(&answer), answer.remote_addr), (200, Some(receiver.address)));
        let (name, request) = told.recv().await.unwrap();
        assert_eq!(name.as_deref(), Some("wiki.internal"));
        let authority = format!("host: {host}:{}\r\n", receiver.address.port());
        assert!(request.contains(&authority) && request.starts_with("POST /logout HTTP/1.1\r\n"), "{request}");
        assert_eq!(failure(&post_as(&egress, &url, &network, &proving("blog.internal"), PATIENCE).await), Failure::Tls);
        assert_eq!(failure(&post_within(&egress, &url, &network, PATIENCE).await), Failure::Tls, "its own name is not proved");
    }
}

#[tokio::test]
async fn the_guard_judges_the_host_whatever_name_it_is_to_prove() {
    let authority = Authority::new();
    let receiver = authority.serve(&["wiki.internal"], OK).await;
    let (egress, names) = production(&[("rp.example", &["127.0.0.1"]), ("wiki.internal", &["127.0.0.1"])]);
    let (closed, open) = (excepting(&[], Some(authority.pem())), excepting(&["127.0.0.1/32"], Some(authority.pem())));
    let manner = proving("wiki.internal");
    for host in ["rp.example", "127.0.0.1", "[::1]", "2130706433"] {
        assert_eq!(failure(&post_as(&egress, &receiver.https(host), &closed, &manner, PATIENCE).await), Failure::Blocked, "{host}");
    }
    let url = receiver.https("rp.example");
    set(&names, "rp.example", &["127.0.0.1", "127.0.0.2"]);
    assert_eq!(failure(&post_as(&egress, &url, &open, &manner, PATIENCE).await), Failure::Blocked, "one address is forbidden");
    assert_eq!(receiver.connections(), 0);
    set(&names, "rp.example", &["127.0.0.1"]);
    assert_eq!(status(&post_as(&egress, &url, &open, &manner, PATIENCE).await), 200);
}

/// Two hosts of one server name are two receivers.
#[tokio::test]
async fn a_connection_to_one_host_is_not_taken_for_another_that_proves_the_same_name() {
    let authority = Authority::new();
    let (one, other) = (authority.serve(&["wiki.internal"], OK).await, authority.serve(&["wiki.internal"], OK).await);
    let (egress, names) = production(&[("one.example", &["127.0.0.1"]), ("other.example", &["127.0.0.1"])]);
    let (network, manner) = (excepting(&["127.0.0.0/8"], Some(authority.pem())), proving("wiki.internal"));
    assert_eq!(status(&post_as(&egress, &one.https("one.example"), &network, &manner, PATIENCE).await), 200);
    set(&names, "one.example", &["10.0.0.1"]);
    // The same port, and by the name the connection is known by: only the host tells them apart.
    set(&names, "other.example", &["10.0.0.1"]);
    assert_eq!(failure(&post_as(&egress, &one.https("other.example"), &network, &manner, PATIENCE).await), Failure::Blocked);
    assert_eq!((one.connections(), other.connections()), (1, 0));
}

#[tokio::test]
async fn headers_a_client_asked_for_are_sent_and_never_kept_from_an_answer() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            let body = "no Basic dXNlcjpwYXNz, no dXNlcjpwYXNz and no hunter2 here";
            let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let headers = [("Authorization", "Basic dXNlcjpwYXNz"), ("X-Api-Key", "hunter2")];
    let headers = headers.map(|(name, value)| (name.to_owned(), zeroize::Zeroizing::new(value.to_owned()))).to_vec();
    let manner = Manner { headers, ..Manner::PLAIN };
    assert!(!format!("{manner:?}").contains("hunter2"));
    let answer = post_as(&developer(), &receiver.url(), &Network::default(), &manner, PATIENCE).await;
    assert_eq!(answer.excerpt.as_deref(), Some("no [token], no [token] and no [token] here"));
    let request = requests.recv().await.unwrap();
    assert!(request.contains("authorization: Basic dXNlcjpwYXNz\r\n") && request.contains("x-api-key: hunter2\r\n"), "{request}");
}

// Through a proxy.

fn proxy_at(host: &str, port: u16) -> Proxy {
    Proxy { host: url::Host::parse(host).unwrap(), port, credentials: None, past: Vec::new() }
}

/// A proxy that asks for a name and a password, builds the tunnels it is asked for, wherever they lead, and writes down what it was asked.
async fn tunnelling(answer: &'static str, to: SocketAddr) -> (Receiver, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&asked);
    let proxy = Receiver::start(move |mut stream| {
        let sink = Arc::clone(&sink);
        async move {
            let Some(request) = read_request(&mut stream).await else { return };
            let allowed = request.contains("Proxy-Authorization: Basic dXNlcjpwYTpzcw==\r\n")
                || request.contains("proxy-authorization: Basic dXNlcjpwYTpzcw==\r\n");
            locked(&sink).push(request);
            let answer = if allowed { answer } else { "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n" };
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.starts_with("HTTP/1.1 200 ") {
                let mut onward = TcpStream::connect(to).await.unwrap();
                // It ends when either side does.
                drop(tokio::io::copy_bidirectional(&mut stream, &mut onward).await);
            }
        }
    })
    .await;
    (proxy, asked)
}

const TUNNEL: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// A production deployment behind a proxy, which it knows by a name.
fn behind(proxy: &Receiver, password: &str) -> (Egress, FixedNames) {
    let table = FixedNames::default();
    set(&table, "proxy.example", &["127.0.0.1"]);
    let credentials = crate::model::proxy::Credentials { name: "user".to_owned(), password: zeroize::Zeroizing::new(password.to_owned()) };
    let proxy = Proxy { credentials: Some(credentials), ..proxy_at("proxy.example", proxy.address.port()) };
    let config = EgressConfig {
        ceiling: vec!["127.0.0.0/8".parse().unwrap()],
        connect_timeout: Duration::from_secs(1),
        dns_timeout: Duration::from_secs(1),
        names: Names::Fixed(table.clone()),
        proxy: Some(proxy),
        ..EgressConfig::default()
    };
    (Egress::new(config).unwrap(), table)
}

#[tokio::test]
async fn through_a_proxy_the_proxy_alone_is_resolved_and_connected_to_and_hears_nothing_but_a_host() {
    let authority = Authority::new();
    let (receiver, mut told) = serve_and_tell(authority.acceptor(&["rp.example"], |_| {})).await;
    let (proxy, asked) = tunnelling(TUNNEL, receiver.address).await;
    let (egress, _) = behind(&proxy, "pa:ss");
    // No exception for loopback: what is connected to is the proxy, and the name is none of ours to resolve.
    let network = excepting(&[], Some(authority.pem()));
    let url = receiver.https("rp.example");
    for _ in 0..2 {
        let answer = post_within(&egress, &url, &network, PATIENCE).await;
        assert_eq!((status(&answer), answer.remote_addr), (200, Some(proxy.address)), "{answer:?}");
        let (name, request) = told.recv().await.unwrap();
        assert_eq!(name.as_deref(), Some("rp.example"));
        assert!(request.contains(TOKEN) && !request.to_lowercase().contains("proxy"), "{request}");
    }
    let asked = locked(&asked).clone();
    assert_eq!(asked.len(), 1, "the tunnel is kept: {asked:?}");
    let authority = format!("rp.example:{}", receiver.address.port());
    assert!(asked[0].starts_with(&format!("CONNECT {authority} HTTP/1.1\r\n")) && !asked[0].contains(TOKEN), "{asked:?}");
}

#[tokio::test]
async fn what_may_not_be_reached_never_comes_to_the_proxy() {
    let (proxy, _) = tunnelling(TUNNEL, "127.0.0.1:9".parse().unwrap()).await;
    let (egress, _) = behind(&proxy, "pa:ss");
    for url in [
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://rp.example:22/",
        "https://user@rp.example/",
        "http://rp.example/",
    ] {
        let answer = post_within(&egress, &Url::parse(url).unwrap(), &Network::default(), PATIENCE).await;
        assert_eq!(failure(&answer), Failure::Blocked, "{url}: {answer:?}");
    }
    let renamed = post_as(&egress, &Url::parse("https://rp.example/").unwrap(), &Network::default(), &proving("a.b"), PATIENCE).await;
    assert_eq!(failure(&renamed), Failure::Blocked, "{renamed:?}");
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_proxy_that_fails_is_our_fault_and_one_that_cannot_reach_the_receiver_is_not() {
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let url = Url::parse("https://rp.example/logout").unwrap();
    let outcome = async |egress: &Egress| {
        let answer = post_within(egress, &url, &Network::default(), PATIENCE).await;
        let told = answer.detail.clone().unwrap();
        assert!(!told.contains("pa:ss") && !told.contains("dXNlcjp"), "{told}");
        failure(&answer)
    };
    let (proxy, _) = tunnelling(TUNNEL, nowhere).await;
    assert_eq!(outcome(&behind(&proxy, "wrong").0).await, Failure::Ours, "407");
    for (answer, expected) in [
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", Failure::Connect),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", Failure::Connect),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", Failure::Connect),
        ("", Failure::Ours),
    ] {
        let (proxy, _) = tunnelling(answer, nowhere).await;
        assert_eq!(outcome(&behind(&proxy, "pa:ss").0).await, expected, "{answer}");
    }
    let (egress, names) = behind(&proxy, "pa:ss");
    set(&names, "proxy.example", &[]);
    assert_eq!(outcome(&egress).await, Failure::Ours, "its name is gone");
    let gone = Receiver { address: nowhere, connections: Arc::default(), _tasks: JoinSet::new() };
    assert_eq!(outcome(&behind(&gone, "pa:ss").0).await, Failure::Ours, "nobody listens");
}

#[tokio::test]
async fn a_receiver_behind_a_proxy_must_prove_its_name_like_any_other() {
    let authority = Authority::new();
    let receiver = authority.serve(&["other.example"], OK).await;
    let (proxy, _) = tunnelling(TUNNEL, receiver.address).await;
    let (egress, _) = behind(&proxy, "pa:ss");
    let network = excepting(&[], Some(authority.pem()));
    assert_eq!(failure(&post_within(&egress, &receiver.https("rp.example"), &network, PATIENCE).await), Failure::Tls);
}

#[tokio::test]
async fn what_goes_past_the_proxy_is_guarded_as_without_one() {
    let authority = Authority::new();
    let receiver = authority.serve(&["wiki.internal"], OK).await;
    let (proxy, _) = tunnelling(TUNNEL, receiver.address).await;
    let (egress, names) = behind(&proxy, "pa:ss");
    let mut config = (*egress.config).clone();
    config.proxy.as_mut().unwrap().past = vec![crate::model::proxy::Past::Name("wiki.internal".to_owned())];
    let egress = Egress::new(config).unwrap();
    set(&names, "wiki.internal", &["127.0.0.1"]);
    let url = receiver.https("wiki.internal");
    let (closed, open) = (excepting(&[], Some(authority.pem())), excepting(&["127.0.0.0/8"], Some(authority.pem())));
    assert_eq!(failure(&post_within(&egress, &url, &closed, PATIENCE).await), Failure::Blocked);
    let answer = post_within(&egress, &url, &open, PATIENCE).await;
    assert_eq!((status(&answer), answer.remote_addr), (200, Some(receiver.address)));
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_document_is_read_by_the_same_ways() {
    let authority = Authority::new();
    let receiver = authority.serve(&["op.example"], OK).await;
    let (proxy, _) = tunnelling(TUNNEL, receiver.address).await;
    let network = excepting(&[], Some(authority.pem()));
    let url = receiver.https("op.example");
    let fetch = Fetch { url: &url, network: &network, accept: "application/json", octets_max: 10, timeout: PATIENCE };
    let (egress, _) = behind(&proxy, "pa:ss");
    assert_eq!(egress.fetch(fetch).await.unwrap().body, b"ok");
    assert_eq!(egress.send(request(&url, &network)).await.body.as_deref(), Some(b"ok".as_slice()));
    assert_eq!(proxy.connections(), 1);
    let (egress, _) = production(&[("op.example", &["127.0.0.1"])]);
    assert!(matches!(egress.fetch(fetch).await, Err(FetchError::Blocked(_))));
    let open = excepting(&["127.0.0.0/8"], Some(authority.pem()));
    assert_eq!(egress.fetch(Fetch { network: &open, ..fetch }).await.unwrap().body, b"ok");
    assert_eq!(egress.send(request(&url, &open)).await.body.as_deref(), Some(b"ok".as_slice()));
}
