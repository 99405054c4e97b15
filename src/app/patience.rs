//! A stream that does not wait for ever for its peer to take what it is sent.
//!
//! Owns the clock of a write that is stuck. Never bounds a read: how long a peer may be silent depends on what it was asked, which only the protocol knows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream of which a write that makes no progress for the whole of its patience fails, and with it the connection.
#[derive(Debug)]
pub(super) struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write is stuck, and starts anew with each octet the peer takes.
    running_out: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(super) const fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, running_out: None }
    }

    fn hurry<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.running_out = None;
            return outcome;
        }
        let patience = self.patience;
        let running_out = self.running_out.get_or_insert_with(|| Box::pin(sleep(patience)));
        running_out.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.hurry(cx, outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.hurry(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.hurry(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.hurry(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails() {
        let (near, _far) = duplex(4);
        let mut stream = Impatient::new(near, Duration::from_millis(50));
        let failed = timeout(SOON, stream.write_all(b"more than fits")).await.expect("it does not wait for ever");
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn each_octet_taken_makes_the_stream_patient_again() {
        let (near, mut far) = duplex(4);
        let mut stream = Impatient::new(near, LONG);
        stream.write_all(b"fits").await.unwrap();
        assert!(stream.write(b"!").now_or_never().is_none() && stream.running_out.is_some());
        let first = stream.running_out.as_ref().map(|sleep| sleep.deadline());
        assert!(stream.write(b"!").now_or_never().is_none());
        assert_eq!(stream.running_out.as_ref().map(|sleep| sleep.deadline()), first, "asking again gains no time");

        assert_eq!(far.read_u8().await.unwrap(), b'f');
        assert_eq!(stream.write(b"!").await.unwrap(), 1);
        assert!(stream.running_out.is_none());
    }

    #[tokio::test]
    async fn a_silent_peer_is_waited_for_while_nothing_is_sent_to_it() {
        let (near, mut far) = duplex(4);
        let mut stream = Impatient::new(near, Duration::ZERO);
        assert!(stream.read_u8().now_or_never().is_none());
        far.write_u8(7).await.unwrap();
        assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), 7);
    }
}
