//! A client connection on which answers must get on: a client that reads next to nothing would hold a key's slot for ever.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// While something is ready for it, a client may let us wait for so long …
const PATIENCE: Duration = Duration::from_secs(120);
/// … for each so many bytes that it takes: 256 a second. Slower than any mobile network, and the time in which nothing
/// is ready for it does not count.
const LEAST: usize = 256 * 120;

/// A stream whose writes fail when too little of them is taken.
pub(crate) struct WriteLimit<S> {
    stream: S,
    waits: Option<Box<Waits>>,
}

/// How a client that does not keep up gets on. Most never have one.
struct Waits {
    /// Ends our patience, while a write waits.
    ends: Option<Pin<Box<Sleep>>>,
    /// Since when a write waits.
    since: Instant,
    /// How long others had waited before.
    before: Duration,
    /// Bytes taken meanwhile.
    taken: usize,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
#[error("the client reads too slowly")]
struct TooSlow;

/// Whether a connection ended because its client did not keep up.
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
            waits: None,
        }
    }

    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        length: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Ok(taken)) => {
                let length = length(taken);
                if self
                    .waits
                    .as_mut()
                    .is_some_and(|waits| waits.made_up(length))
                {
                    self.waits = None;
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                let waits = self.waits.get_or_insert_with(Waits::begin);
                waits.poll(cx).map(|()| Err(io::Error::other(TooSlow)))
            }
        }
    }
}

impl Waits {
    fn begin() -> Box<Self> {
        Box::new(Self {
            ends: None,
            since: Instant::now(),
            before: Duration::ZERO,
            taken: 0,
        })
    }

    /// One more write waits.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (before, since) = (self.before, &mut self.since);
        let ends = self.ends.get_or_insert_with(|| {
            *since = Instant::now();
            Box::pin(sleep(PATIENCE.saturating_sub(before)))
        });
        ends.as_mut().poll(cx)
    }

    /// So much was taken. Whether that makes up for all the waiting.
    fn made_up(&mut self, length: usize) -> bool {
        if self.ends.take().is_some() {
            self.before += self.since.elapsed();
        }
        self.taken = self.taken.saturating_add(length);
        self.taken >= LEAST
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

    /// Reads so many bytes at once, with so long a pause before each.
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
    async fn a_client_is_cut_off_where_it_takes_less_than_it_should_while_something_waits() {
        let second = Duration::from_secs(1);
        for (what, piece, pause, whole) in [
            ("a byte a second", 1, second, false),
            ("nothing", 1, PATIENCE * 2, false),
            ("just too little", 200, second, false),
            ("in bursts that are too small", 4_096, PATIENCE / 3, false),
            ("just enough", 300, second, true),
            (
                "in bursts that are large enough",
                64 * 1024,
                PATIENCE - second,
                true,
            ),
            ("all", 64 * 1024, Duration::ZERO, true),
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
                assert!(took < PATIENCE * 5, "{what}: only after {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_ready_does_not_count() {
        let (ours, theirs) = tokio::io::duplex(64);
        let mut limited = WriteLimit::new(ours);
        let write = async {
            for _ in 0..200 {
                // Each waits for half a second, and then for the provider.
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
    async fn the_connection_tells_why_it_was_closed() {
        for (pause, too_slow) in [(PATIENCE * 2, true), (Duration::ZERO, false)] {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let answer = Full::new(Bytes::from(vec![b'x'; MIB]));
            let service = service_fn(move |_| {
                let answer = Response::new(answer.clone());
                async move { Ok::<_, Infallible>(answer) }
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
            let error = ended.expect_err("the client took a part only");
            assert_eq!(is_too_slow(&error), too_slow, "{error:?}");
        }
    }
}
