//! A provider that sends exactly the given bytes, valid HTTP or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the provider sends for a request.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    /// Sends these bytes, then closes.
    Close(Vec<u8>),
    /// Sends these bytes, then waits for the next request.
    Stay(Vec<u8>),
    /// Sends the first bytes, then repeats the second up to this many times, until the other side closes.
    Repeat(Vec<u8>, Vec<u8>, usize),
}

impl Say {
    pub(crate) fn close(text: &str) -> Say {
        Say::Close(text.into())
    }

    pub(crate) fn stay(text: &str) -> Say {
        Say::Stay(text.into())
    }

    pub(crate) fn endless(first: &str, then: &str) -> Say {
        // In pieces of 16 KiB, so that writing costs little.
        let then = then.repeat(16_384 / then.len() + 1);
        Say::Repeat(first.into(), then.into(), usize::MAX)
    }
}

/// Chooses what to send by the number of the request, from 0, and its bytes.
type Choose = dyn Fn(usize, &[u8]) -> Say + Send + Sync;

/// A running raw provider. It stops when dropped.
pub(crate) struct RawProvider {
    pub(crate) addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl RawProvider {
    /// Uses one of `says` per request, in order, and the last one for all further requests.
    pub(crate) async fn start(says: impl IntoIterator<Item = Say>) -> RawProvider {
        let says: Arc<[Say]> = says.into_iter().collect();
        Self::choosing(move |n, _| says[n.min(says.len() - 1)].clone()).await
    }

    /// Lets `choose` decide what is sent.
    pub(crate) async fn choosing(
        choose: impl Fn(usize, &[u8]) -> Say + Send + Sync + 'static,
    ) -> RawProvider {
        let choose: Arc<Choose> = Arc::new(choose);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (requests, gone) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&requests), Arc::clone(&gone));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (choose, requests, gone) = (
                    Arc::clone(&choose),
                    Arc::clone(&counts.0),
                    Arc::clone(&counts.1),
                );
                connections.spawn(async move {
                    serve(stream, &*choose, &requests).await;
                    gone.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        RawProvider {
            addr,
            requests,
            gone,
            _serving: serving,
        }
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The number of requests received.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The number of connections that have ended.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, choose: &Choose, requests: &AtomicUsize) {
    while let Some(request) = read_request(&mut stream).await {
        let n = requests.fetch_add(1, Ordering::SeqCst);
        let said = match &choose(n, &request) {
            Say::Close(bytes) => {
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                // Read everything, because unread bytes would turn the close into a reset.
                while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
                return;
            }
            Say::Stay(bytes) => stream.write_all(bytes).await,
            Say::Repeat(first, then, times) => {
                let mut said = stream.write_all(first).await;
                for _ in 0..*times {
                    if said.is_err() {
                        break;
                    }
                    said = stream.write_all(then).await;
                }
                said
            }
        };
        if said.is_err() {
            return;
        }
    }
}

/// Reads a request with a `content-length`; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let head = request.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(at) = head {
            let text = String::from_utf8_lossy(&request[..at]).to_ascii_lowercase();
            let length = text
                .split("\r\n")
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |length| length.trim().parse().expect("a length"));
            if request.len() >= at + 4 + length {
                return Some(request);
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}
