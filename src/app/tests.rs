//! A whole server, started and stopped.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::config::Arguments;

const SOON: Duration = Duration::from_secs(20);

fn config(directory: &Path, more: &[(&str, &str)]) -> Config {
    let arguments = Arguments {
        database_url: Some(format!("sqlite://{}", directory.join("100% logoutd.db").display())),
        listen: Some("127.0.0.1:0".to_owned()),
        mode: Mode::Dev,
        ..Arguments::default()
    };
    Config::load(&arguments, more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
}

async fn start(config: Config) -> Result<Server, Error> {
    timeout(SOON, Server::start(config, Clock::system(), Entropy::os())).await.expect("a start is quick")
}

async fn stop(server: Server) {
    server.stop().request();
    timeout(SOON, server.see_out(Signals::Unheard)).await.expect("a stop ends").unwrap();
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_server_starts_gets_ready_stops_and_starts_again_over_the_same_database() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let server = start(config(directory.path(), &[])).await.unwrap();
        let mut pulse = server.state().pulse.clone();
        timeout(SOON, pulse.wait_for(Option::is_some)).await.unwrap().unwrap();
        let ready = get(server.address(), "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        drop(pulse);
        stop(server).await;
    }
    assert!(directory.path().join("100% logoutd.db").exists(), "the path is taken to the letter");
}

#[tokio::test]
async fn a_server_refuses_to_go_on_with_another_sealing_key_or_without_its_own() {
    let directory = tempfile::tempdir().unwrap();
    stop(start(config(directory.path(), &[])).await.unwrap()).await;

    let other = ("LOGOUTD_SEALING_KEY", "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA");
    let refused = start(config(directory.path(), &[other])).await.unwrap_err();
    assert!(matches!(refused, Error::SealingKey(KeyError::Other { .. })), "{refused}");

    let key = directory.path().join("100% logoutd.db.key");
    std::fs::rename(&key, directory.path().join("elsewhere")).unwrap();
    let refused = start(config(directory.path(), &[])).await.unwrap_err();
    assert!(matches!(refused, Error::SealingKey(KeyError::Missing { .. })), "{refused}");
    assert!(!key.exists(), "no other key takes its place");
}

#[tokio::test]
async fn two_servers_never_share_one_database_file() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(config(directory.path(), &[])).await.unwrap();
    let refused = start(config(directory.path(), &[])).await.unwrap_err();
    assert!(matches!(refused, Error::Open(OpenError::InUse(_))), "{refused}");
    stop(server).await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = config(directory.path(), &[]);
    config.http.listen = address;
    let refused = start(config).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("cannot listen on {address}"));
}

#[tokio::test]
async fn scrapes_may_have_a_listener_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(config(directory.path(), &[("LOGOUTD_HTTP__METRICS_LISTEN", "127.0.0.1:0")])).await.unwrap();
    let metrics = get(server.metrics_address().unwrap(), "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("version=0.0.4") && metrics.contains("logoutd_info"), "{metrics}");
    assert!(!get(server.address(), "/metrics").await.starts_with("HTTP/1.1 200"), "on the main listener a role is asked for");
    stop(server).await;
}

#[tokio::test]
async fn a_caller_who_never_ends_his_request_cannot_hold_a_stop_beyond_the_grace_time() {
    let directory = tempfile::tempdir().unwrap();
    let token = "a-token-of-at-least-32-characters";
    let variables = [("LOGOUTD_SHUTDOWN_GRACE_S", "1"), ("LOGOUTD_ADMIN_TOKEN", token)];
    let server = start(config(directory.path(), &variables)).await.unwrap();
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    let head = format!("Host: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 1000");
    slow.write_all(format!("POST /v1/issuers HTTP/1.1\r\n{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    let mut interim = [0; 64];
    let read = timeout(SOON, slow.read(&mut interim)).await.unwrap().unwrap();
    assert!(interim[..read].starts_with(b"HTTP/1.1 100"), "the server waits for the body");
    stop(server).await;
}

#[tokio::test]
async fn a_caller_who_never_ends_his_request_is_answered_and_hung_up_on() {
    let directory = tempfile::tempdir().unwrap();
    let token = "a-token-of-at-least-32-characters";
    let mut config = config(directory.path(), &[("LOGOUTD_ADMIN_TOKEN", token)]);
    config.http.request_timeout = Duration::from_millis(500);
    let server = start(config).await.unwrap();
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    let head = format!("Host: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 1000");
    slow.write_all(format!("POST /v1/issuers HTTP/1.1\r\n{head}\r\n\r\n{{").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, slow.read_to_string(&mut answer)).await.expect("the connection ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    stop(server).await;
}
