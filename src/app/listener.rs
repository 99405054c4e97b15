//! A listening socket: connections in, requests to a router.
//!
//! Owns the bounds that protect the process before a request exists: how many connections are open and how many from one address, how long one may take
//! for its handshake and to say what it wants, and how slowly it may take an answer. How long a request may take, its body included, is the router's to
//! bound. A handshake is made in the connection's own task and place, so that a slow one holds up nobody.
//! Why not `axum::serve`: it bounds none of these. HTTP/1.1 alone: telling versions apart waits without limit for a first octet, and whoever wants HTTP/2
//! has a proxy in front.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::crowd::Crowd;
use super::patience::Impatient;
use super::tls::Pair;
use crate::lifecycle::{Stop, Tasks};
use crate::observe::{ConnectionRefused, HandshakeFailed};

/// How long a connection may take for its handshake, then to send the head of a request, and how long it may be idle between two.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection may take for a portion of what it is sent. Whoever asks and hardly reads would keep his place for ever.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// The largest head of a request, in octets: whatever cookies a gateway passes on, and not what a thousand strangers could fill the memory with.
const HEAD_OCTETS_MAX: usize = 128 * 1024;
/// How long to wait when the system has no more sockets to give.
const PAUSE_WITHOUT_SOCKETS: Duration = Duration::from_millis(500);

/// Bounds on one listener's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) head_patience: Duration,
    pub(super) write_patience: Duration,
}

impl Limits {
    pub(super) const fn new(connections_max: usize) -> Self {
        Self { connections_max, head_patience: HEAD_PATIENCE, write_patience: WRITE_PATIENCE }
    }
}

/// What is spoken.
#[derive(Clone, Debug)]
pub(super) enum Speech {
    /// HTTP.
    Plain,
    /// HTTP inside of TLS, with the pair that is there when a connection begins.
    Tls(watch::Receiver<Pair>),
}

/// A socket, and what is spoken there with whom.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) socket: TcpListener,
    pub(super) speech: Speech,
    pub(super) limits: Limits,
    pub(super) crowd: Crowd,
}

/// Takes connections until the stop. Whoever comes when all places are taken waits in the system's queue.
pub(super) async fn listen(door: Door, router: Router, tasks: Tasks) {
    let Door { socket, speech, limits, crowd } = door;
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let stop = tasks.stop().clone();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            () = stop.requested() => return,
        };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.requested() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(inside) = crowd.enter(peer.ip()) else {
                    ConnectionRefused.emit(peer.ip());
                    continue;
                };
                let connection = Connection { peer, stop: stop.clone(), limits };
                let (router, speech) = (router.clone(), speech.clone());
                drop(tasks.spawn("connection", async move {
                    connection.begin(stream, speech, router).await;
                    drop((place, inside));
                }));
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// One connection.
struct Connection {
    peer: SocketAddr,
    stop: Stop,
    limits: Limits,
}

impl Connection {
    async fn begin(self, stream: TcpStream, speech: Speech, router: Router) {
        // Small answers are not worth waiting for more to send.
        drop(stream.set_nodelay(true));
        let stream = Impatient::new(stream, self.limits.write_patience);
        match speech {
            Speech::Plain => self.serve(stream, router).await,
            Speech::Tls(shown) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&shown.borrow().config));
                drop(shown);
                if let Some(stream) = self.shake(acceptor, stream).await {
                    self.serve(stream, router).await;
                }
            }
        }
    }

    /// None when nothing came of it, which is told.
    async fn shake(&self, acceptor: TlsAcceptor, stream: Impatient<TcpStream>) -> Option<TlsStream<Impatient<TcpStream>>> {
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.limits.head_patience, acceptor.accept(stream)) => shaken,
            () = self.stop.requested() => return None,
        };
        match shaken {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => HandshakeFailed::Refused.emit(Some(&error)),
            Err(_) => HandshakeFailed::Timeout.emit(None),
        }
        None
    }

    /// Serves until the connection ends, or until the request under way is answered once the stop is requested.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
        let Self { peer, stop, limits } = self;
        let service = TowerToHyperService::new(router);
        let with_peer = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            // Begun at once: when the end of a caller who said everything is seen first, what was not begun would never be.
            let mut answering = Box::pin(service.call(request));
            let answered = answering.as_mut().now_or_never();
            async move {
                match answered {
                    Some(answer) => answer,
                    None => answering.await,
                }
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_patience)
            .max_buf_size(HEAD_OCTETS_MAX)
            .serve_connection(TokioIo::new(stream), with_peer);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.requested() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended before its request did");
        }
    }
}

/// A connection that failed before it was taken is its peer's loss; anything else is a lack of ours that passes.
async fn pause_after(error: &io::Error) {
    let peer = [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
    if !peer.contains(&error.kind()) {
        tracing::error!(error = error as &dyn std::error::Error, "no connection can be taken");
        tokio::time::sleep(PAUSE_WITHOUT_SOCKETS).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;
    use crate::model::origin::{ForwardedBy, Forwarding};

    const SOON: Duration = Duration::from_secs(10);

    struct Server {
        address: SocketAddr,
        tasks: Tasks,
    }

    async fn server(router: Router, limits: Limits) -> Server {
        crowded(router, limits, usize::MAX).await
    }

    async fn crowded(router: Router, limits: Limits, each_max: usize) -> Server {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let tasks = Tasks::default();
        let forwarding = Forwarding { trusted: Vec::new(), by: ForwardedBy::XForwardedFor };
        let door = Door { socket, speech: Speech::Plain, limits, crowd: Crowd::new(each_max, forwarding) };
        drop(tasks.spawn("listener", listen(door, router, tasks.clone())));
        Server { address, tasks }
    }

    impl Server {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn ask(&self, path: &str) -> TcpStream {
            let mut stream = self.connect().await;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
            stream
        }
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("the connection ends soon").unwrap();
        text
    }

    fn hello() -> Router {
        Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("hello {}", peer.ip())))
    }

    #[tokio::test]
    async fn a_request_is_answered_and_knows_where_it_came_from() {
        let server = server(hello(), Limits::new(4)).await;
        assert!(answer(server.ask("/").await).await.ends_with("hello 127.0.0.1"));
    }

    #[tokio::test]
    async fn a_connection_that_never_says_what_it_wants_is_ended_and_gives_its_place_to_another() {
        let server = server(hello(), Limits { head_patience: Duration::from_millis(100), ..Limits::new(1) }).await;
        let mut silent = server.connect().await;
        silent.write_all(b"GET / HT").await.unwrap();
        assert!(answer(server.ask("/").await).await.contains("hello"));
        let mut rest = Vec::new();
        timeout(SOON, silent.read_to_end(&mut rest)).await.expect("it is ended").ok();
    }

    #[tokio::test]
    async fn a_connection_that_asks_and_never_reads_is_ended_and_gives_its_place_to_another() {
        static LARGE: [u8; 1 << 20] = [b'x'; 1 << 20];
        let router = hello().route("/large", get(async || LARGE.as_slice()));
        let server = server(router, Limits { write_patience: Duration::from_millis(100), ..Limits::new(1) }).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let mut deaf = socket.connect(server.address).await.unwrap();
        // More than the system buffers of a connection ever hold.
        deaf.write_all("GET /large HTTP/1.1\r\nHost: x\r\n\r\n".repeat(60).as_bytes()).await.unwrap();
        assert!(answer(server.ask("/").await).await.contains("hello"));
        drop(deaf);
    }

    #[tokio::test]
    async fn one_address_has_so_many_connections_and_gets_another_for_each_it_gives_back() {
        let server = crowded(hello(), Limits::new(8), 2).await;
        let (one, two) = (server.connect().await, server.connect().await);
        let mut octet = [0; 1];
        let mut third = server.connect().await;
        let ended = timeout(SOON, third.read(&mut octet)).await.expect("it is ended at once");
        assert!(!matches!(ended, Ok(1)), "nothing is said to it");
        drop(one);
        let answered = async {
            loop {
                let mut text = String::new();
                let mut stream = server.connect().await;
                // An ended connection may refuse what is written to it.
                if stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.is_ok()
                    && stream.read_to_string(&mut text).await.is_ok()
                    && text.contains("hello")
                {
                    return;
                }
            }
        };
        timeout(SOON, answered).await.expect("there is a place again");
        drop(two);
    }

    #[tokio::test]
    async fn a_stop_takes_no_more_connections_and_lets_a_request_finish() {
        let (inside, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (inside, gate) = (Arc::clone(&inside), Arc::clone(&gate));
            async move || {
                inside.notify_one();
                gate.notified().await;
                "finished"
            }
        };
        let server = server(Router::new().route("/", get(handler)), Limits::new(4)).await;
        let under_way = server.ask("/").await;
        timeout(SOON, inside.notified()).await.unwrap();

        server.tasks.stop().request();
        let refused = async {
            while TcpStream::connect(server.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, refused).await.expect("the socket is closed");
        gate.notify_one();
        assert!(answer(under_way).await.ends_with("finished"));
        timeout(SOON, server.tasks.wait()).await.expect("nothing is left");
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_delay_a_stop() {
        let server = server(hello(), Limits::new(4)).await;
        let mut idle = server.connect().await;
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut octets = [0; 1024];
        assert!(timeout(SOON, idle.read(&mut octets)).await.unwrap().unwrap() > 0);
        let silent = server.connect().await;
        server.tasks.stop().request();
        timeout(SOON, server.tasks.wait()).await.expect("nothing is left");
        drop((idle, silent));
    }
}
