//! An open-loop load generator for benchmarks: latency at a fixed rate, and fixed numbers of requests.
//!
//! At a fixed rate, every request has its time. If no connection is free then, the wait counts as latency: a slow
//! response must not hide the requests that it delays ("coordinated omission").
//! It uses threads and blocking sockets, because a runtime's timer rounds to whole milliseconds.
//! It must never know what it measures.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

/// Maximum time without a byte from the server.
const DEADLINE: Duration = Duration::from_secs(30);
/// Maximum size of a response head.
const MAX_HEAD: usize = 64 << 10;
/// Time from the start of the threads to the first request, so that all have connected by then.
const HEAD_START: Duration = Duration::from_millis(50);

/// Sends one request many times over keep-alive connections, and prints the latencies as JSON.
#[derive(Parser)]
#[command(name = "keypool-load", version)]
struct Args {
    /// Address of the server.
    #[arg(long)]
    target: SocketAddr,
    /// Path of the request.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// File with the JSON body of the request.
    #[arg(long)]
    body: PathBuf,
    /// Further header of each request, as `name: value`.
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Number of connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Total number of requests.
    #[arg(long)]
    requests: usize,
    /// Requests per second, evenly spaced. Without it, each connection sends its next request after a response.
    #[arg(long)]
    rate: Option<u32>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let plan = Plan {
        target: args.target,
        request: request(
            args.target,
            &args.path,
            &args.headers,
            &fs::read(&args.body)?,
        ),
        requests: args.requests,
        schedule: args.rate.map(|rate| Schedule {
            begin: now() + HEAD_START,
            interval: Duration::from_secs(1) / rate.max(1),
        }),
        next: AtomicUsize::new(0),
    };
    let mut result = Totals::default();
    thread::scope(|scope| -> io::Result<()> {
        let workers: Vec<_> = (0..args.connections)
            .map(|_| scope.spawn(|| plan.work()))
            .collect();
        for worker in workers {
            let totals = worker
                .join()
                .map_err(|_| io::Error::other("a thread of the load generator panicked"))?;
            result.add(totals?);
        }
        Ok(())
    })?;
    writeln!(io::stdout(), "{}", result.report())
}

#[expect(
    clippy::disallowed_methods,
    reason = "real time is what is measured here"
)]
fn now() -> Instant {
    Instant::now()
}

fn request(target: SocketAddr, path: &str, headers: &[String], body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let further: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {target}\r\ncontent-type: application/json\r\nauthorization: Bearer any\r\ncontent-length: {length}\r\n{further}\r\n",
    );
    [head.as_bytes(), body].concat()
}

/// The plan that all connections share.
struct Plan {
    target: SocketAddr,
    request: Vec<u8>,
    requests: usize,
    schedule: Option<Schedule>,
    /// The number of the next request.
    next: AtomicUsize,
}

struct Schedule {
    begin: Instant,
    interval: Duration,
}

impl Plan {
    /// Sends requests over one connection until none is left.
    ///
    /// # Errors
    /// If it cannot connect. A failed request is counted, and a new connection opened.
    fn work(&self) -> io::Result<Totals> {
        let mut totals = Totals::default();
        let mut connection = Connection::open(self.target)?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return Ok(totals);
            }
            let start = self.wait(number, &mut totals);
            match connection.call(&self.request) {
                Ok(200..=299) => totals.latencies.push(now() - start),
                Ok(_) => totals.failed += 1,
                Err(_) => {
                    totals.failed += 1;
                    connection = Connection::open(self.target)?;
                }
            }
        }
    }

    /// Waits for the request's time, and returns the instant from which its latency counts.
    fn wait(&self, number: usize, totals: &mut Totals) -> Instant {
        let Some(schedule) = &self.schedule else {
            return now();
        };
        // A u32 is enough for a month at 1,000 requests per second.
        let due = schedule.begin + schedule.interval * u32::try_from(number).unwrap_or(u32::MAX);
        let early = due.saturating_duration_since(now());
        if early.is_zero() {
            totals.late += 1;
            return due;
        }
        thread::sleep(early);
        // The sleep ends about 50 µs late, which is not the server's fault.
        now()
    }
}

/// The results of one connection, or of all.
#[derive(Default)]
struct Totals {
    latencies: Vec<Duration>,
    failed: usize,
    /// Requests that were sent late because no connection was free.
    late: usize,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.latencies.extend(other.latencies);
        self.failed += other.failed;
        self.late += other.late;
    }

    /// One line of JSON. Latencies are in microseconds, or null if there are none.
    fn report(mut self) -> String {
        self.latencies.sort_unstable();
        let us =
            |share| percentile(&self.latencies, share).map(|latency| latency.as_secs_f64() * 1e6);
        json!({
            "ok": self.latencies.len(),
            "failed": self.failed,
            "late": self.late,
            "p50_us": us(0.5),
            "p90_us": us(0.9),
            "p99_us": us(0.99),
            "max_us": us(1.0),
        })
        .to_string()
    }
}

/// The smallest value that at least `share` of `sorted` do not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A keep-alive connection and its read buffer.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(target: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&target, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Connection {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends `request`, reads the whole response, and returns its status.
    fn call(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        loop {
            if let Some(end) = end_of_head(&self.buffer) {
                let (status, length) = status_and_length(&self.buffer[..end])?;
                while self.buffer.len() < end + length {
                    self.read()?;
                }
                return Ok(status);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(odd("an answer whose head does not end"));
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
        }
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The offset after the blank line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let found = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    found.map(|at| at + 4)
}

/// The status and the body length.
///
/// # Errors
/// If the body has no length: this program does not support streams.
fn status_and_length(head: &[u8]) -> io::Result<(u16, usize)> {
    let head = std::str::from_utf8(head).map_err(|_| odd("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    status
        .zip(length)
        .ok_or_else(|| odd("an answer without status or length"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        for (sorted, share, millis) in [
            (&hundred[..], 0.5, Some(50)),
            (&hundred, 0.99, Some(99)),
            (&hundred, 0.995, Some(100)),
            (&hundred, 1.0, Some(100)),
            (&hundred, 0.0, Some(1)),
            (&hundred[..1], 0.99, Some(1)),
            (&[], 0.5, None),
        ] {
            let found = percentile(sorted, share);
            assert_eq!(
                found,
                millis.map(Duration::from_millis),
                "{share} of {}",
                sorted.len()
            );
        }
    }

    #[test]
    fn a_response_needs_a_content_length() {
        let read = |text: &str| status_and_length(text.as_bytes()).ok();
        for (head, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
                Some((200, 12)),
            ),
            (
                "HTTP/1.1 503 No\r\na: b\r\ncontent-length:0\r\n\r\n",
                Some((503, 0)),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                None,
            ),
            ("nonsense\r\n\r\n", None),
        ] {
            assert_eq!(read(head), expected, "{head:?}");
        }
        assert_eq!(end_of_head(b"a\r\n\r\nbody"), Some(5));
        assert_eq!(end_of_head(b"a\r\n\r"), None);
    }

    /// Responds to `answers` requests on one connection, to the first only after `pause`.
    fn server(answers: usize, pause: Duration) -> (SocketAddr, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let running = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            for number in 0..answers {
                while !seen.ends_with(b"body") {
                    let mut piece = [0; 1024];
                    let read = stream.read(&mut piece).unwrap();
                    seen.extend_from_slice(&piece[..read]);
                }
                seen.clear();
                if number == 0 {
                    thread::sleep(pause);
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                    .unwrap();
                stream.write_all(b"ok").unwrap();
            }
        });
        (addr, running)
    }

    #[test]
    fn the_delay_of_a_slow_response_counts_for_later_requests() {
        let pause = Duration::from_millis(200);
        let (target, running) = server(10, pause);
        let plan = Plan {
            target,
            request: request(target, "/", &[], b"body"),
            requests: 10,
            schedule: Some(Schedule {
                begin: now() + HEAD_START,
                interval: Duration::from_millis(1),
            }),
            next: AtomicUsize::new(0),
        };
        let totals = plan.work().unwrap();
        running.join().unwrap();
        assert_eq!((totals.latencies.len(), totals.failed), (10, 0));
        // All were due within the first 10 ms, and none could be sent during the pause.
        assert!(totals.late >= 9, "{}", totals.late);
        let least = pause - Duration::from_millis(10);
        assert!(
            totals.latencies.iter().all(|latency| *latency >= least),
            "{:?}",
            totals.latencies
        );
    }
}
