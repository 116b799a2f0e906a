//! The mock provider as a program, for benchmarks and for tests in other languages.
//!
//! It must never know more than command line and library.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use keypool_testkit::{Behaviour, Mock};

/// A made-up LLM provider that answers as OpenAI, Anthropic, Gemini, Ark and Tavily do.
#[derive(Parser)]
#[command(name = "keypool-mock", version)]
struct Args {
    /// Where to listen; port 0 takes a free one, printed on the first line.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Milliseconds from a request's end to the answer's head.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Milliseconds between two events of a stream.
    #[arg(long, default_value_t = 0)]
    chunk_interval_ms: u64,
    /// Events with text in a stream.
    #[arg(long, default_value_t = 8)]
    chunks: usize,
    /// Share of calls answered 503, from 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    fail_share: f64,
    /// Calls that a key may have in flight.
    #[arg(long)]
    max_concurrent: Option<u32>,
    /// Calls that a key may make in any 60 s.
    #[arg(long)]
    rpm: Option<u32>,
    /// Keep no requests: faster.
    #[arg(long)]
    no_record: bool,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut runtime = match args.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    runtime.enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> io::Result<()> {
    let behaviour = Behaviour {
        latency: Duration::from_millis(args.latency_ms),
        chunk_interval: Duration::from_millis(args.chunk_interval_ms),
        chunks: args.chunks,
        fail_share: args.fail_share,
        max_concurrent: args.max_concurrent,
        rpm: args.rpm,
        record: !args.no_record,
        ..Behaviour::default()
    };
    let mock = Mock::start_on(args.listen, behaviour).await?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {}", mock.addr())?;
    stdout.flush()?;
    mock.stopped().await;
    Ok(())
}
