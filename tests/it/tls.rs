//! The listener's certificate: shown, renewed while requests flow, and refused where it cannot be shown.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use logoutd::config::Mode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::harness::api::Api;
use crate::harness::database::{Database, Engine};
use crate::harness::process::Process;
use crate::harness::server::{ADMIN_TOKEN, Server};
use crate::harness::{DEADLINE, until};

/// Who vouches for the listener.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM, and what a peer sees of it.
struct Pair {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority of the tests");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pair(&self) -> Pair {
        self.pair_until(2090)
    }

    fn pair_until(&self, year: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { cert: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()));
        let mut config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(&self, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(address, &[]).await
    }

    async fn connect_with(&self, address: &str, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        self.connector(protocols).connect("127.0.0.1".try_into().unwrap(), stream).await
    }

    /// The certificate a new connection is shown.
    async fn seen(&self, address: &str) -> CertificateDer<'static> {
        let stream = self.connect(address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// Where a pair lies.
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn in_directory(directory: &Path, pair: &Pair) -> Self {
        let files = Self { cert: directory.join("tls.crt"), key: directory.join("tls.key") };
        files.write(&pair.cert, &pair.key);
        files
    }

    /// Each file whole, the key for its owner alone.
    fn write(&self, cert: &str, key: &str) {
        for (path, text) in [(&self.cert, cert), (&self.key, key)] {
            let beside = path.with_extension("new");
            std::fs::write(&beside, text).unwrap();
            std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::rename(&beside, path).unwrap();
        }
    }

    fn variables(&self) -> [(&'static str, &str); 2] {
        [("LOGOUTD_HTTP__TLS__CERT_FILE", self.cert.to_str().unwrap()), ("LOGOUTD_HTTP__TLS__KEY_FILE", self.key.to_str().unwrap())]
    }
}

async fn sqlite() -> Database {
    Database::fresh(Engine::Sqlite).await.unwrap()
}

/// Asks for `/healthz` on a connection that stays open.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut octets = [0; 1024];
        let read = stream.read(&mut octets).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&octets[..read]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_without_a_request_that_fails_and_a_bad_one_never() {
    let (database, authority) = (sqlite().await, Arc::new(Authority::new()));
    let first = authority.pair();
    let files = Files::in_directory(database.directory(), &first);
    let mut process = Process::serve(&database, &files.variables());
    let address = process.base().await.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(authority.seen(&address).await, first.der);
    let mut before = authority.connect(&address).await.unwrap();
    ask(&mut before).await.unwrap();

    let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let (authority, address, done, asked) = (Arc::clone(&authority), address.clone(), Arc::clone(&done), Arc::clone(&asked));
        callers.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let mut stream = authority.connect(&address).await.unwrap();
                for _ in 0..5 {
                    ask(&mut stream).await.unwrap();
                }
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let mut shown = first.der;
    for _ in 0..5 {
        let next = authority.pair();
        files.write(&next.cert, &next.key);
        process.signal("HUP");
        until("new connections are shown the new certificate", || async { (authority.seen(&address).await == next.der).then_some(()) })
            .await;
        shown = next.der;
    }
    // As Kubernetes does it: the names stay, and a link leads elsewhere.
    let (linked, elsewhere) = (authority.pair(), tempfile::tempdir().unwrap());
    let aside = Files::in_directory(elsewhere.path(), &linked);
    for (link, target) in [(&files.cert, &aside.cert), (&files.key, &aside.key)] {
        let beside = link.with_extension("link");
        std::os::unix::fs::symlink(target, &beside).unwrap();
        std::fs::rename(&beside, link).unwrap();
    }
    assert_ne!(shown, linked.der);
    process.signal("HUP");
    until("what the links lead to is shown", || async { (authority.seen(&address).await == linked.der).then_some(()) }).await;

    let other = authority.pair();
    files.write(&other.cert, &linked.key);
    process.signal("HUP");
    let refusal = until("the half of a pair is refused", || async {
        process.lines().into_iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains("cannot be shown")))
    })
    .await;
    assert!(
        refusal.to_string().contains("must be the key of the first certificate") && refusal.to_string().contains("tls.key"),
        "{refusal}"
    );
    assert_eq!(authority.seen(&address).await, linked.der, "the one before goes on");
    std::fs::remove_file(&files.cert).unwrap();
    process.signal("HUP");
    until("why it cannot be read is said", || async { process.log().contains("cannot be read: No such file").then_some(()) }).await;
    files.write(&other.cert, &other.key);
    process.signal("HUP");
    until("the whole pair is shown", || async { (authority.seen(&address).await == other.der).then_some(()) }).await;

    ask(&mut before).await.expect("a connection goes on that was there before all of that");
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.expect("no request failed");
    }
    assert!(asked.load(Ordering::SeqCst) > 0);
    let metrics = Api::trusting(&format!("https://{address}"), &authority.0.pem()).with_token(ADMIN_TOKEN).get("/metrics").await;
    let line = |start: &str| metrics.text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert_eq!(line("logoutd_listener_certificate_reloads_total{outcome=\"taken\"}").split(' ').next_back(), Some("7"));
    assert_eq!(line("logoutd_listener_certificate_reloads_total{outcome=\"refused\"}").split(' ').next_back(), Some("2"));
    let left: f64 = line("logoutd_certificate_expires_seconds{kind=\"listener\"}").rsplit(' ').next().unwrap().parse().unwrap();
    assert!(left.is_finite() && left > 0.0, "{left}");
    process.terminate();
    assert!(process.ended().await.success());
    assert!(!process.log().contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_takes_its_time_holds_up_nobody_and_http_2_is_not_agreed_on() {
    let (database, authority) = (sqlite().await, Authority::new());
    let files = Files::in_directory(database.directory(), &authority.pair());
    let server = Server::start_with(&database, Mode::Dev, &files.variables()).await;
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let mut silent = Vec::new();
    for number in 0..40_u8 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a handshake (RFC 8446 5.1), and no more.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        silent.push(stream);
    }
    let mut stream = tokio::time::timeout(DEADLINE, authority.connect(&address)).await.unwrap().unwrap();
    ask(&mut stream).await.unwrap();

    let both = authority.connect_with(&address, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(authority.connect_with(&address, &["h2"]).await.is_err());

    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(tokio::time::timeout(DEADLINE, plain.read_to_end(&mut answer)).await.expect("who speaks no TLS is left"));
    assert!(!answer.starts_with(b"HTTP"), "nothing is answered in plain");
    let admin = Api::trusting(&format!("https://{address}"), &authority.0.pem()).with_token(ADMIN_TOKEN);
    admin
        .post("/v1/issuers", serde_json::json!({"id": "main", "issuer": "https://id.example.com", "signing_algs": ["ES256"]}))
        .await
        .expect(201);
    let metadata = admin.get("/main/.well-known/openid-configuration").await.expect(200);
    assert!(metadata["jwks_uri"].as_str().unwrap().starts_with(&format!("https://{address}/")), "{metadata}");
    server.stop().await;
    drop(silent);
}

fn run(arguments: &[&str], variables: &[(&str, &str)], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_logoutd"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .unwrap()
}

#[test]
fn what_cannot_be_shown_is_refused_by_check_config_and_at_the_start_with_the_file_and_the_reason() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (pair, other, old) = (authority.pair(), authority.pair(), authority.pair_until(2020));
    let files = Files::in_directory(directory.path(), &pair);
    let chain = format!("{}{}", authority.0.pem(), pair.cert);
    for (cert, key, mode, told) in [
        (pair.cert.as_str(), other.key.as_str(), 0o600, ["http.tls.key_file", "tls.key", "must be the key of the first certificate"]),
        (&pair.cert, &pair.key, 0o644, ["http.tls.key_file", "tls.key", "may be read by others than its owner"]),
        (&old.cert, &old.key, 0o600, ["http.tls.cert_file", "tls.crt", "has expired"]),
        (&chain, &pair.key, 0o600, ["http.tls.cert_file", "tls.crt", "is not in order"]),
        ("nothing", &pair.key, 0o600, ["http.tls.cert_file", "tls.crt", "must be one or more certificates"]),
    ] {
        files.write(cert, key);
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = run(&["check-config"], &files.variables(), directory.path());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(told.iter().all(|word| error.contains(word)) && !error.contains("BEGIN"), "{told:?} in {error}");
        let output = run(&["serve", "--listen", "127.0.0.1:0"], &files.variables(), directory.path());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told[1..].iter().all(|word| error.contains(word)), "{told:?} in {error}");
    }
    files.write(&format!("{}{}", pair.cert, authority.0.pem()), &pair.key);
    assert_eq!(run(&["check-config"], &files.variables(), directory.path()).status.code(), Some(0));
    let half = run(&["check-config"], &files.variables()[..1], directory.path());
    let error = String::from_utf8(half.stderr).unwrap();
    assert!(half.status.code() == Some(1) && error.contains("http.tls.cert_file") && error.contains("http.tls.key_file"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_in_plain_where_others_can_hear_it_is_warned() {
    let database = sqlite().await;
    let overheard = async |variables: &[(&str, &str)]| {
        let variables = [&[("LOGOUTD_ADMIN_TOKEN", ADMIN_TOKEN), ("LOGOUTD_DATABASE_URL", database.url.as_str())][..], variables].concat();
        let mut process = Process::spawn(&database, &["serve", "--listen", "0.0.0.0:0"], &variables);
        process.base().await;
        process.terminate();
        assert!(process.ended().await.success());
        process.log().contains("plain HTTP")
    };
    assert!(overheard(&[]).await);
    assert!(!overheard(&[("LOGOUTD_HTTP__TRUSTED_PROXIES", "10.0.0.0/8")]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_does_not_trust_the_listener_says_what_the_file_of_authorities_must_hold() {
    let (database, authority, another) = (sqlite().await, Authority::new(), Authority::new());
    let pair = authority.pair();
    let files = Files::in_directory(database.directory(), &pair);
    let mut process = Process::serve(&database, &files.variables());
    let base = process.base().await.replace("http://", "https://");
    let listed = |ca: Option<&str>| {
        let file = database.directory().join("ca.crt");
        std::fs::write(&file, ca.unwrap_or_default()).unwrap();
        let mut variables = vec![("LOGOUTD_URL", base.as_str()), ("LOGOUTD_TOKEN", ADMIN_TOKEN)];
        variables.extend(ca.map(|_| ("LOGOUTD_CA_FILE", file.to_str().unwrap())));
        let output = run(&["issuer", "list"], &variables, database.directory());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(listed(Some(&authority.0.pem())), (Some(0), String::new()));
    let (status, told) = listed(None);
    assert!(status == Some(1) && told.contains("LOGOUTD_CA_FILE names certificates to trust"), "{told}");
    let (status, told) = listed(Some(&another.0.pem()));
    assert!(
        status == Some(1) && told.contains("although LOGOUTD_CA_FILE is set") && told.contains("ca.crt must hold the authority"),
        "{told}"
    );
    for without in [pair.key.as_str(), "", "hello"] {
        let (status, told) = listed(Some(without));
        assert!(status == Some(2) && told.contains("LOGOUTD_CA_FILE must name a file with certificates in PEM"), "{told}");
        assert!(!told.contains("BEGIN"), "{told}");
    }
}
