//! A TCP proxy that stalls, delays or cuts connections on demand: a network that fails.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A proxy on a free port of 127.0.0.1 in front of one server. It stops when dropped.
#[derive(Debug)]
pub struct StallingProxy {
    addr: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    /// Stops when dropped.
    _serving: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
struct Behaviour {
    /// Nothing passes, in either direction.
    stalled: bool,
    /// What passes does so this much later, in each direction.
    delay: Duration,
    /// Connections that were accepted before this number changed are closed.
    cuts: u64,
}

impl StallingProxy {
    /// Starts, and passes everything on to `server` at once.
    pub async fn start(server: SocketAddr) -> io::Result<StallingProxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (behaviour, seen) = watch::channel(Behaviour {
            stalled: false,
            delay: Duration::ZERO,
            cuts: 0,
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, server, seen));
        Ok(StallingProxy {
            addr,
            behaviour,
            _serving: serving,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on, bytes are held, also those of new connections; what is held passes after [`pass`](Self::pass).
    pub fn stall(&self) {
        self.behaviour
            .send_modify(|behaviour| behaviour.stalled = true);
    }

    /// Ends [`stall`](Self::stall).
    pub fn pass(&self) {
        self.behaviour
            .send_modify(|behaviour| behaviour.stalled = false);
    }

    /// From now on, bytes pass `delay` later, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.behaviour
            .send_modify(|behaviour| behaviour.delay = delay);
    }

    /// Closes all connections, with the bytes that they hold. New ones are accepted.
    pub fn cut(&self) {
        self.behaviour.send_modify(|behaviour| behaviour.cuts += 1);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, seen: watch::Receiver<Behaviour>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(connect(client, server, seen.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(client: TcpStream, server: SocketAddr, mut seen: watch::Receiver<Behaviour>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let cuts = seen.borrow().cuts;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (up, down) = (seen.clone(), seen.clone());
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server, up) => {}
        _ = copy(&mut from_server, &mut to_client, down) => {}
        _ = seen.wait_for(|behaviour| behaviour.cuts != cuts) => {}
    }
}

/// Passes bytes on until an end closes.
async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut seen: watch::Receiver<Behaviour>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let delay = seen.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let passes = seen.wait_for(|behaviour| !behaviour.stalled).await;
        drop(passes.map_err(io::Error::other)?);
        to.write_all(&buffer[..length]).await?;
    }
}
