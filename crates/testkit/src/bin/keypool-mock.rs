//! The mock provider as a program, for benchmarks and for tests in other languages.
//!
//! It must only connect the command line with the library.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use keypool_testkit::{Behaviour, Mock};

/// A mock LLM provider that responds like OpenAI, Anthropic, Gemini, Ark and Tavily.
#[derive(Parser)]
#[command(name = "keypool-mock", version)]
struct Args {
    /// Address to listen on. With port 0, a free port is chosen and printed on the first line.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Milliseconds from the end of a request to the head of its response.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Milliseconds between two events of a stream.
    #[arg(long, default_value_t = 0)]
    chunk_interval_ms: u64,
    /// Number of text events in a stream.
    #[arg(long, default_value_t = 8)]
    chunks: usize,
    /// Share of calls that get 503, from 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    fail_share: f64,
    /// Maximum number of calls in flight per key.
    #[arg(long)]
    max_concurrent: Option<u32>,
    /// Maximum number of calls per key in any 60 s.
    #[arg(long)]
    rpm: Option<u32>,
    /// Do not record requests, which is faster.
    #[arg(long)]
    no_record: bool,
    /// Number of worker threads.
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
