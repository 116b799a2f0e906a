//! Closes client connections that drain too slowly: a client that hardly reads would hold a key's slot forever.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// While data is pending, the client must accept `MIN_BYTES` per `PERIOD`. Time with nothing to send does not count.
const PERIOD: Duration = Duration::from_secs(120);
/// 256 bytes per second: slower than any mobile network.
const MIN_BYTES: usize = 256 * 120;

/// A stream whose writes fail if the client accepts too few bytes.
pub(crate) struct WriteLimit<S> {
    stream: S,
    /// Set while the client is behind; most never have one.
    progress: Option<Box<Progress>>,
}

/// The progress of a client that is behind.
struct Progress {
    /// Runs while a write waits, and ends the period.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the current wait began.
    since: Instant,
    /// Total time of earlier waits.
    waited: Duration,
    /// Number of bytes accepted since the first wait.
    accepted: usize,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
#[error("the client reads too slowly")]
struct TooSlow;

/// Whether a connection ended because its client drained it too slowly.
pub(crate) fn is_too_slow(error: &hyper::Error) -> bool {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref())
        .any(|cause| cause.is::<TooSlow>())
}

impl<S> WriteLimit<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            progress: None,
        }
    }

    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        length: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Ok(accepted)) => {
                let length = length(accepted);
                if self
                    .progress
                    .as_mut()
                    .is_some_and(|progress| progress.accept(length))
                {
                    self.progress = None;
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                let progress = self.progress.get_or_insert_with(Progress::begin);
                progress.poll(cx).map(|()| Err(io::Error::other(TooSlow)))
            }
        }
    }
}

impl Progress {
    fn begin() -> Box<Self> {
        Box::new(Self {
            timer: None,
            since: Instant::now(),
            waited: Duration::ZERO,
            accepted: 0,
        })
    }

    /// A write waits. Ready once the period is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (waited, since) = (self.waited, &mut self.since);
        let timer = self.timer.get_or_insert_with(|| {
            *since = Instant::now();
            Box::pin(sleep(PERIOD.saturating_sub(waited)))
        });
        timer.as_mut().poll(cx)
    }

    /// Counts `length` accepted bytes. Returns whether the client has caught up, so that a new period may begin.
    fn accept(&mut self, length: usize) -> bool {
        if self.timer.take().is_some() {
            self.waited += self.since.elapsed();
        }
        self.accepted = self.accepted.saturating_add(length);
        self.accepted >= MIN_BYTES
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteLimit<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit(cx, written, |length| *length)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limit(cx, written, |length| *length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.limit(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.limit(cx, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    const MIB: usize = 1 << 20;

    /// Reads up to `piece` bytes at once, with a pause before each read.
    async fn read_in_pieces(mut stream: DuplexStream, piece: usize, pause: Duration) -> usize {
        let (mut all, mut buffer) = (0, vec![0; piece]);
        loop {
            tokio::time::sleep(pause).await;
            match stream.read(&mut buffer).await {
                Ok(n @ 1..) => all += n,
                _ => return all,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_too_slowly_is_cut_off() {
        let second = Duration::from_secs(1);
        for (what, piece, pause, whole) in [
            ("a byte a second", 1, second, false),
            ("nothing", 1, PERIOD * 2, false),
            ("slightly too little", 200, second, false),
            ("in bursts that are too small", 4_096, PERIOD / 3, false),
            ("just enough", 300, second, true),
            (
                "in bursts that are large enough",
                64 * 1024,
                PERIOD - second,
                true,
            ),
            ("everything at once", 64 * 1024, Duration::ZERO, true),
        ] {
            let (ours, theirs) = tokio::io::duplex(piece);
            let mut limited = WriteLimit::new(ours);
            let write = async {
                let body = vec![b'x'; MIB / 4];
                let written = limited.write_all(&body).await;
                drop(limited);
                written
            };
            let began = Instant::now();
            let (written, _) = tokio::join!(write, read_in_pieces(theirs, piece, pause));
            assert_eq!(written.is_ok(), whole, "{what}: {written:?}");
            if !whole {
                let took = began.elapsed();
                assert!(took < PERIOD * 5, "{what}: only after {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_with_nothing_to_send_does_not_count() {
        let (ours, theirs) = tokio::io::duplex(64);
        let mut limited = WriteLimit::new(ours);
        let write = async {
            for _ in 0..200 {
                // Each write waits half a second for the client, then a minute for the provider.
                limited.write_all(&[b'x'; 65]).await?;
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            drop(limited);
            Ok::<_, io::Error>(())
        };
        let (written, _) = tokio::join!(
            write,
            read_in_pieces(theirs, 65, Duration::from_millis(500))
        );
        assert!(written.is_ok(), "{written:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_says_whether_the_client_was_too_slow() {
        for (pause, too_slow) in [(PERIOD * 2, true), (Duration::ZERO, false)] {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let body = Full::new(Bytes::from(vec![b'x'; MIB]));
            let service = service_fn(move |_| {
                let response = Response::new(body.clone());
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(WriteLimit::new(ours)), service);
            let client = async {
                tokio::time::sleep(pause).await;
                let mut some = [0; 100];
                theirs.read_exact(&mut some).await.unwrap();
                drop(theirs);
            };
            let (ended, ()) = tokio::join!(serving, client);
            let error = ended.expect_err("the client read only a part");
            assert_eq!(is_too_slow(&error), too_slow, "{error:?}");
        }
    }
}
