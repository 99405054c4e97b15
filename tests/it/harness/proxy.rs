//! What stands between a caller and a server and breaks off: octets go through both ways, until a connection is cut.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// When a connection is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Once the server has answered, after this many octets of the answer went through.
    AnswerAfter(usize),
}

/// A proxy that is gone with this value.
pub(crate) struct Proxy {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Before the server at `base`; the first connections are cut so, later ones are not.
    pub(crate) async fn open(base: &str, cuts: impl IntoIterator<Item = Cut>) -> Self {
        let server: SocketAddr = base.trim_start_matches("http://").parse().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let cuts: Arc<Mutex<VecDeque<Cut>>> = Arc::new(Mutex::new(cuts.into_iter().collect()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (caller, _) = socket.accept().await.unwrap();
                let cut = cuts.lock().unwrap().pop_front();
                connections.spawn(pass(caller, server, cut));
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn pass(mut caller: TcpStream, server: SocketAddr, cut: Option<Cut>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let mut left = cut.map_or(usize::MAX, |Cut::AnswerAfter(octets)| octets);
    let (mut asked, mut answered) = (vec![0; 16_384], vec![0; 16_384]);
    loop {
        tokio::select! {
            read = caller.read(&mut asked) => match read {
                Ok(length @ 1..) if server.write_all(&asked[..length]).await.is_ok() => {}
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(length @ 1..) => {
                    let through = length.min(left);
                    left -= through;
                    if caller.write_all(&answered[..through]).await.is_err() || through < length {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
