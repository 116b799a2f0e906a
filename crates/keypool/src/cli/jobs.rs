//! `keypool jobs`: calls that a running server has accepted and makes later.
//!
//! With a virtual key in `KEYPOOL_API_KEY`, the data plane is called as that caller; without one, the admin API.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use keypool_core::values;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, path, segments};
use super::server::ServerArgs;
use super::table::{ago, now, or_dash, table};
use super::{Failure, print, print_error};

/// How long one call to the data plane waits for the end of a job, as it allows.
const CALLER_WAIT: Duration = Duration::from_secs(30);
/// Time between two looks at a job through the admin API.
const LOOK: Duration = Duration::from_millis(500);
/// Maximum number of jobs in a page of either plane.
const PAGE: usize = 100;

#[derive(Args)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    verb: JobVerb,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum JobVerb {
    /// List jobs, newest first.
    ///
    /// With a virtual key in KEYPOOL_API_KEY, its own jobs; otherwise those of all callers.
    #[command(after_help = "Example:\n  keypool jobs list --status failed --limit 50")]
    List(ListArgs),
    /// Show one job.
    #[command(
        after_help = "Example:\n  keypool jobs show job_0123456789abcdef0123456789abcdef --wait 30s"
    )]
    Show(ShowArgs),
    /// Cancel jobs. If a provider is working on one, that call ends too.
    ///
    /// Exits with 1 if one could not be cancelled.
    #[command(after_help = "Example:\n  keypool jobs cancel job_0123456789abcdef0123456789abcdef")]
    Cancel(CancelArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Only jobs with this status.
    #[arg(long, value_name = "STATUS", value_enum)]
    status: Option<Status>,
    /// Maximum number of jobs.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "all")]
    limit: u32,
    /// All jobs.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Status {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Args)]
struct ShowArgs {
    /// The job's id.
    #[arg(value_name = "ID")]
    id: String,
    /// Wait for the job's end for up to this time, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = wait)]
    wait: Option<Duration>,
}

#[derive(Args)]
struct CancelArgs {
    /// Ids of the jobs.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

fn wait(text: &str) -> Result<Duration, &'static str> {
    values::duration(text).ok_or("must be a duration such as 30s")
}

/// What the text shows of a job, wherever it comes from.
#[derive(Deserialize)]
struct Job {
    id: String,
    status: String,
    caller: Option<String>,
    method: Option<String>,
    path: Option<String>,
    model: Option<String>,
    pool: String,
    priority: String,
    attempts: u32,
    position: Option<u64>,
    created_at: Time,
    ended_at: Option<Time>,
    deadline_at: Time,
    error: Option<JobError>,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct JobError {
    code: String,
    message: String,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    body_bytes: u64,
}

/// A time as the data plane or the admin API writes it.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(i64),
    Text(Timestamp),
}

impl Time {
    fn timestamp(self) -> Option<Timestamp> {
        match self {
            Self::Seconds(seconds) => Timestamp::from_second(seconds).ok(),
            Self::Text(time) => Some(time),
        }
    }
}

/// The jobs of a server, as a caller or as its operator.
struct Jobs {
    client: Client,
    is_caller: bool,
}

const COLUMNS: [&str; 7] = ["ID", "STATUS", "MODEL", "POOL", "ATTEMPTS", "AGE", "ERROR"];

/// Runs a verb.
pub(super) fn run(args: &JobsArgs) -> Result<ExitCode, Failure> {
    let jobs = match args.server.caller_target()? {
        Some(target) => Jobs {
            client: Client::of(target, args.server.json),
            is_caller: true,
        },
        None => Jobs {
            client: Client::new(&args.server)?,
            is_caller: false,
        },
    };
    match &args.verb {
        JobVerb::List(args) => list(args, &jobs),
        JobVerb::Show(args) => show(args, &jobs),
        JobVerb::Cancel(args) => cancel(args, &jobs),
    }
}

impl Jobs {
    fn path(&self, id: Option<&str>) -> String {
        let below: Vec<&str> = std::iter::once("jobs").chain(id).collect();
        match self.is_caller {
            true => segments("/v1", &below),
            false => path(&below),
        }
    }

    /// A page of jobs, and whether there are more.
    fn page(&self, query: &str) -> Result<(Vec<Value>, bool), Failure> {
        let mut page = self.client.get(&format!("{}?{query}", self.path(None)))?;
        let (items, has_more) = match self.is_caller {
            true => (page["data"].take(), page["has_more"] == true),
            false => (page["items"].take(), page["next"].is_string()),
        };
        Ok((self.client.read(&items)?, has_more))
    }

    /// Up to `limit` jobs, newest first, and whether there are more.
    fn list(&self, status: Option<Status>, limit: usize) -> Result<(Vec<Value>, bool), Failure> {
        let status = status.and_then(|status| status.to_possible_value());
        let status = status.map(|status| format!("&status={}", status.get_name()));
        let status = status.unwrap_or_default();
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = PAGE.min(limit - all.len());
            let (items, has_more) = self.page(&format!("limit={page}{status}{after}"))?;
            let last = items.last().and_then(|job| job["id"].as_str());
            after = match last {
                Some(id) => format!("&after={}", utf8_percent_encode(id, NON_ALPHANUMERIC)),
                None => return Ok((all, false)),
            };
            all.extend(items);
            if !has_more || all.len() >= limit {
                return Ok((all, has_more));
            }
        }
    }

    /// A job, at its end or when it has been waited for.
    fn wait_for(&self, id: &str, mut left: Duration) -> Result<Value, Failure> {
        let path = self.path(Some(id));
        loop {
            let step = left.min(if self.is_caller { CALLER_WAIT } else { LOOK });
            let job = match self.is_caller && !step.is_zero() {
                true => self
                    .client
                    .get(&format!("{path}?wait={}ms", step.as_millis()))?,
                false => self.client.get(&path)?,
            };
            if !job["ended_at"].is_null() || left.is_zero() {
                return Ok(job);
            }
            if !self.is_caller {
                std::thread::sleep(step);
            }
            left -= step;
        }
    }
}

fn list(args: &ListArgs, jobs: &Jobs) -> Result<ExitCode, Failure> {
    let limit = match args.all {
        true => usize::MAX,
        false => args.limit as usize,
    };
    let (items, has_more) = jobs.list(args.status, limit)?;
    if jobs.client.json {
        let next = items.last().filter(|_| has_more).map(|job| &job["id"]);
        print(&format!("{:#}", json!({ "items": items, "next": next })))?;
        return Ok(ExitCode::SUCCESS);
    }
    if items.is_empty() {
        print("There are no such jobs.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let listed: Vec<Job> = jobs.client.read_all(&items)?;
    let now = now();
    print(&table(
        &COLUMNS,
        listed.into_iter().map(|job| row(job, now)),
    ))?;
    if has_more {
        print_error(&format!(
            "these are the newest {}; --all lists all of them, --limit more",
            items.len()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(job: Job, now: Timestamp) -> Vec<String> {
    let status = match job.position {
        Some(position) => format!("{} ({position})", job.status),
        None => job.status,
    };
    vec![
        job.id,
        status,
        or_dash(job.model),
        job.pool,
        job.attempts.to_string(),
        ago(job.created_at.timestamp(), now),
        or_dash(job.error.map(|error| error.code)),
    ]
}

fn show(args: &ShowArgs, jobs: &Jobs) -> Result<ExitCode, Failure> {
    let job = jobs.wait_for(&args.id, args.wait.unwrap_or_default())?;
    if jobs.client.json {
        print(&format!("{job:#}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&text(&jobs.client.read(&job)?, now()))?;
    Ok(ExitCode::SUCCESS)
}

/// One job for people: a line for each thing that is known.
fn text(job: &Job, now: Timestamp) -> String {
    let call = match (&job.method, &job.path) {
        (Some(method), Some(path)) => Some(format!("{method} {path}")),
        _ => None,
    };
    let status = match job.position {
        Some(position) => format!("{}, at place {position} in the queue", job.status),
        None => job.status.clone(),
    };
    let deadline = job.deadline_at.timestamp();
    let deadline = deadline.filter(|_| job.ended_at.is_none());
    let ended = job.ended_at.map(|at| ago(at.timestamp(), now));
    let lines = [
        ("id", Some(job.id.clone())),
        ("status", Some(status)),
        ("caller", job.caller.clone()),
        ("call", call),
        ("model", job.model.clone()),
        ("pool", Some(job.pool.clone())),
        ("priority", Some(job.priority.clone())),
        ("attempts", Some(job.attempts.to_string())),
        ("submitted", Some(ago(job.created_at.timestamp(), now))),
        ("ended", ended),
        ("deadline", deadline.map(|at| format!("{at:.0}"))),
        (
            "error",
            job.error
                .as_ref()
                .map(|error| format!("{}: {}", error.code, error.message)),
        ),
        (
            "response",
            job.response
                .as_ref()
                .map(|response| format!("{}, {} bytes", response.status, response.body_bytes)),
        ),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| {
        let value = value?;
        Some(format!("{name:<10} {value}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Cancels each job. What the server refuses for one does not stop the others.
fn cancel(args: &CancelArgs, jobs: &Jobs) -> Result<ExitCode, Failure> {
    let (mut items, mut refused) = (Vec::new(), Vec::new());
    for id in &args.ids {
        match jobs.client.delete(&jobs.path(Some(id))) {
            Ok(_) => {
                if !jobs.client.json {
                    print(&format!("{id}: cancelled"))?;
                }
                items.push(json!({ "id": id, "status": "cancelled" }));
            }
            Err(Failure::Problem { sentence, .. }) => {
                print_error(&format!("{id}: {sentence}"));
                refused.push(json!({ "id": id, "error": sentence }));
            }
            Err(failure) => return Err(failure),
        }
    }
    let is_good = refused.is_empty();
    if jobs.client.json {
        let result = json!({ "items": items, "errors": refused });
        print(&format!("{result:#}"))?;
    }
    Ok(match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
