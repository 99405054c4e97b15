//! A stream that does not wait for ever for its peer to take what it is sent.
//!
//! Owns the clock of a write that is stuck. Never bounds a read: how long a peer may be silent depends on what it was asked, which only the protocol knows.
//!
//! A peer that takes an octet now and then is no better than one that takes none: the clock of a stuck write goes on until a portion was taken, or until
//! there is nothing more to send. So an answer takes at most its patience for each portion.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What a peer must take for each time it is waited for, in octets.
const PORTION: usize = 64 * 1024;

/// A stream of which a write that does not get a portion on within its patience fails, and with it the connection.
#[derive(Debug)]
pub(super) struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Runs since a write was stuck.
    running_out: Option<Pin<Box<Sleep>>>,
    /// How much was taken since.
    taken: usize,
}

impl<S> Impatient<S> {
    pub(super) const fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, running_out: None, taken: 0 }
    }

    /// Some of what there is to send was taken, or all of what was waited for.
    fn progress(&mut self, taken: usize) {
        self.taken = self.taken.saturating_add(taken);
        if self.taken >= PORTION {
            self.calm();
        }
    }

    fn calm(&mut self) {
        (self.running_out, self.taken) = (None, 0);
    }

    fn hurry<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let patience = self.patience;
        let taken = &mut self.taken;
        let running_out = self.running_out.get_or_insert_with(|| {
            *taken = 0;
            Box::pin(sleep(patience))
        });
        running_out.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read, or hardly")))
    }

    fn written(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(taken)) => self.progress(taken),
            Poll::Ready(Err(_)) => self.calm(),
            Poll::Pending => return self.hurry(cx),
        }
        outcome
    }

    /// Whoever flushes has handed over all there is.
    fn handed_over(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if outcome.is_pending() {
            return self.hurry(cx);
        }
        self.calm();
        outcome
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
        self.written(cx, outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.handed_over(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.handed_over(cx, outcome)
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
    async fn an_octet_taken_now_and_then_gains_no_time_and_a_portion_does() {
        let (near, mut far) = duplex(2 * PORTION);
        let mut stream = Impatient::new(near, LONG);
        let full = vec![0; 2 * PORTION];
        stream.write_all(&full).await.unwrap();
        let deadline = |stream: &Impatient<_>| stream.running_out.as_ref().map(|sleep| sleep.deadline());
        assert!(stream.write(&full).now_or_never().is_none());
        let first = deadline(&stream);
        assert!(first.is_some());
        for _ in 0..5 {
            far.read_u8().await.unwrap();
            assert_eq!(stream.write(&full).await.unwrap(), 1);
            assert!(stream.write(&full).now_or_never().is_none());
        }
        assert_eq!(deadline(&stream), first, "a trickle gains nothing");

        let mut portion = vec![0; PORTION];
        far.read_exact(&mut portion).await.unwrap();
        assert_eq!(stream.write(&full).await.unwrap(), PORTION);
        assert!(stream.running_out.is_none());
    }

    #[tokio::test]
    async fn whoever_took_all_there_was_is_waited_for_anew() {
        let (near, mut far) = duplex(4);
        let mut stream = Impatient::new(near, LONG);
        stream.write_all(b"fits").await.unwrap();
        assert!(stream.write(b"!").now_or_never().is_none() && stream.running_out.is_some());
        far.read_u8().await.unwrap();
        assert_eq!(stream.write(b"!").await.unwrap(), 1);
        stream.flush().await.unwrap();
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
