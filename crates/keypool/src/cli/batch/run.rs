//! Runs a batch from the upload of its input to its results, or continues with one.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::StatusCode;
use indicatif::ProgressBar;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{Client, segments};
use super::super::table::count;
use super::super::{Failure, print, print_error, progress};
use super::state::{self, State, cannot_read, replace};
use super::{Paths, how_to_go_on};

/// Time between two looks at a batch.
const LOOK: Duration = Duration::from_secs(1);
/// Maximum number of looks in a row that may fail, so that a restart of the server is waited for.
const MAX_FAILED_LOOKS: u32 = 120;
/// Maximum number of mistakes that are printed.
const MAX_PRINTED: usize = 20;

/// One run of the command.
pub(super) struct Run {
    pub(super) client: Client,
    pub(super) paths: Paths,
    /// The path of all calls, if the command names it.
    pub(super) endpoint: Option<String>,
}

/// What is read of a batch.
#[derive(Deserialize)]
struct Batch {
    status: String,
    errors: Option<Mistakes>,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    request_counts: Counts,
}

#[derive(Deserialize)]
struct Mistakes {
    data: Vec<Mistake>,
}

#[derive(Deserialize)]
struct Mistake {
    line: Option<u64>,
    message: String,
}

#[derive(Clone, Copy, Deserialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

fn batch_path(below: &[&str]) -> String {
    segments("/v1/batches", below)
}

fn id_of(client: &Client, document: &Value) -> Result<String, Failure> {
    client.read(&document["id"])
}

/// Whether the server has refused a call, so that it had no effect.
fn is_refused(failure: &Failure) -> bool {
    matches!(failure, Failure::Problem { status, .. } if status.is_client_error())
}

/// Whether the same call may succeed later.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::NoResponse(_) => true,
        Failure::Problem { status, .. } => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        _ => false,
    }
}

impl Run {
    /// Runs the batch to its end. `cancels`: it is cancelled first.
    pub(super) fn to_end(&self, cancels: bool) -> Result<ExitCode, Failure> {
        let id = match cancels {
            true => self.cancelled()?,
            false => self.begun()?,
        };
        self.results(&id).map_err(|failure| match failure {
            Failure::Problem {
                status,
                sentence,
                json,
            } => Failure::Problem {
                status,
                sentence: format!("{sentence}. {}", how_to_go_on(&id)),
                json,
            },
            failure => Failure::Other(format!("{failure}. {}", how_to_go_on(&id))),
        })
    }

    /// The id of the batch of an earlier run, or of a new one.
    fn begun(&self) -> Result<String, Failure> {
        let digest = state::digest(&self.paths.input)?;
        let Some(state) = self.state()?.filter(|state| state.file_id.is_some()) else {
            return self.started(digest);
        };
        if state.input_sha256 != digest {
            return Err(Failure::Other(format!(
                "{} has changed since its batch began: restore it to continue, end that batch with --cancel, or name another output to run both",
                self.paths.input.display()
            )));
        }
        match self.known(&state)? {
            Some(id) => Ok(id),
            None => {
                print_error(&format!(
                    "{} no longer knows the batch of {}: a new one is started",
                    self.client.url(),
                    self.paths.state.display()
                ));
                self.started(digest)
            }
        }
    }

    /// The state that an earlier run has left.
    fn state(&self) -> Result<Option<State>, Failure> {
        let state = State::read(&self.paths.state)?;
        match state {
            Some(state) if state.server != self.client.url() => Err(Failure::Other(format!(
                "the batch of {} is on another server: add --server {}, or name another output for a new batch",
                self.paths.state.display(),
                state.server
            ))),
            state => Ok(state),
        }
    }

    /// The id of the batch of an earlier run, if the server knows it.
    fn known(&self, state: &State) -> Result<Option<String>, Failure> {
        let Some(id) = &state.batch_id else {
            return self.created_unacknowledged(state);
        };
        match self.client.get(&batch_path(&[id])) {
            Ok(_) => Ok(Some(id.clone())),
            Err(Failure::Problem { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The id of a batch that was created just before the earlier run was killed.
    fn created_unacknowledged(&self, state: &State) -> Result<Option<String>, Failure> {
        let mut after = String::new();
        loop {
            let page = self.client.get(&format!("/v1/batches?limit=100{after}"))?;
            let batches: Vec<Value> = self.client.read(&page["data"])?;
            let is_ours =
                |batch: &&Value| batch["input_file_id"].as_str() == state.file_id.as_deref();
            if let Some(found) = batches.iter().find(is_ours) {
                let id = id_of(&self.client, found)?;
                self.note_batch(state, &id)?;
                return Ok(Some(id));
            }
            match page["last_id"].as_str() {
                Some(last) if page["has_more"] == true => {
                    let last = utf8_percent_encode(last, NON_ALPHANUMERIC);
                    after = format!("&after={last}");
                }
                _ => return Ok(None),
            }
        }
    }

    fn note_batch(&self, state: &State, id: &str) -> Result<(), Failure> {
        let state = State {
            batch_id: Some(id.to_owned()),
            ..state.clone()
        };
        state.write(&self.paths.state)
    }

    /// Uploads the input and creates a batch.
    fn started(&self, digest: String) -> Result<String, Failure> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => state::endpoint(&self.paths.input)?,
        };
        let mut state = State {
            server: self.client.url().to_owned(),
            input_sha256: digest,
            file_id: None,
            batch_id: None,
        };
        // Before the upload, so that a folder that cannot be written to is noticed.
        state.write(&self.paths.state)?;
        let created = self.created(&mut state, &endpoint);
        if let Err(failure) = &created
            && (state.file_id.is_none() || is_refused(failure))
        {
            state::remove(&self.paths.state)?;
        }
        created
    }

    fn created(&self, state: &mut State, endpoint: &str) -> Result<String, Failure> {
        let file = self.uploaded()?;
        state.file_id = Some(file.clone());
        state.write(&self.paths.state)?;
        let new =
            json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h" });
        let batch = self.client.post("/v1/batches", &new)?;
        let id = id_of(&self.client, &batch)?;
        self.note_batch(state, &id)?;
        Ok(id)
    }

    /// Uploads the input, and returns the id of the file.
    fn uploaded(&self) -> Result<String, Failure> {
        let input = &self.paths.input;
        let file = File::open(input).map_err(|error| cannot_read(input, error))?;
        let metadata = file.metadata().map_err(|error| cannot_read(input, error))?;
        if !metadata.is_file() {
            return Err(Failure::Other(format!(
                "{} is no file: a batch is run from a file on a disk",
                input.display()
            )));
        }
        let length = metadata.len();
        let (media_type, head, tail) = form(input)?;
        let whole = head.len() as u64 + length + tail.len() as u64;
        let bar = progress::bytes("uploading", whole, true);
        // A file that grows meanwhile is sent up to here.
        let content = Cursor::new(head)
            .chain(file.take(length))
            .chain(Cursor::new(tail));
        let content = (bar.wrap_read(content), whole);
        let sent = self.client.upload("/v1/files", &media_type, content);
        bar.finish_and_clear();
        id_of(&self.client, &sent?)
    }

    /// Cancels the batch of an earlier run, and returns its id.
    fn cancelled(&self) -> Result<String, Failure> {
        let path = self.paths.state.display();
        let state = self.state()?.ok_or_else(|| {
            Failure::Other(format!(
                "there is no batch to cancel: {path} does not exist"
            ))
        })?;
        let id = match state.file_id {
            Some(_) => self.known(&state)?,
            None => None,
        };
        let Some(id) = id else {
            state::remove(&self.paths.state)?;
            return Err(Failure::Other(format!(
                "there is no batch to cancel: {} does not know the one of {path}, which was removed",
                self.client.url()
            )));
        };
        match self.client.act(&batch_path(&[&id, "cancel"])) {
            // It has ended, and its results are saved.
            Err(Failure::Problem { status, .. }) if status == StatusCode::CONFLICT => Ok(id),
            Err(failure) => Err(failure),
            Ok(_) => Ok(id),
        }
    }

    /// Waits for the end of the batch, and saves its results.
    fn results(&self, id: &str) -> Result<ExitCode, Failure> {
        let mut document = self.ended(id)?;
        let batch: Batch = self.client.read(&document)?;
        if batch.status == "failed" {
            state::remove(&self.paths.state)?;
            if self.client.json {
                print(&format!("{document:#}"))?;
            }
            print_error(&mistakes(batch.errors, &self.paths.input));
            return Ok(ExitCode::FAILURE);
        }
        let errors = &self.paths.errors;
        self.save(batch.output_file_id.as_deref(), &self.paths.output)?;
        match &batch.error_file_id {
            Some(id) => self.save(Some(id), errors)?,
            // One of an earlier batch would be taken for this one's.
            None => state::remove(errors)?,
        }
        state::remove(&self.paths.state)?;
        match self.client.json {
            true => {
                let errors = batch.error_file_id.is_some().then(|| errors.display());
                document["output_path"] = json!(self.paths.output.display().to_string());
                document["errors_path"] = json!(errors.map(|errors| errors.to_string()));
                print(&format!("{document:#}"))?;
            }
            false => print(&text(&batch, &self.paths))?,
        }
        Ok(
            match batch.status == "completed" && batch.request_counts.failed == 0 {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            },
        )
    }

    /// The batch at its end.
    fn ended(&self, id: &str) -> Result<Value, Failure> {
        let mut shown = Shown::new();
        let mut failed_looks = 0;
        let ended = loop {
            match self.client.get(&batch_path(&[id])) {
                Ok(document) => {
                    failed_looks = 0;
                    let batch: Batch = self.client.read(&document)?;
                    if matches!(
                        &*batch.status,
                        "completed" | "failed" | "expired" | "cancelled"
                    ) {
                        break Ok(document);
                    }
                    shown.update(batch.request_counts);
                }
                Err(failure) if may_pass(&failure) && failed_looks < MAX_FAILED_LOOKS => {
                    failed_looks += 1;
                }
                Err(failure) => break Err(failure),
            }
            std::thread::sleep(LOOK);
        };
        shown.bar.finish_and_clear();
        ended
    }

    /// Saves a file of the server; without one, an empty file.
    fn save(&self, id: Option<&str>, to: &Path) -> Result<(), Failure> {
        let bar = progress::waiting("downloading the results", true);
        let saved = replace(to, |file| match id {
            Some(id) => {
                let path = segments("/v1/files", &[id, "content"]);
                self.client.download(&path, file)
            }
            None => Ok(()),
        });
        bar.finish_and_clear();
        saved
    }
}

/// What a terminal shows of a batch.
struct Shown {
    bar: ProgressBar,
    /// Whether the number of calls is known.
    is_counting: bool,
}

impl Shown {
    fn new() -> Self {
        Self {
            bar: progress::waiting("the server checks the file", true),
            is_counting: false,
        }
    }

    fn update(&mut self, counts: Counts) {
        let done = counts.completed + counts.failed;
        if !self.is_counting && counts.total > 0 {
            self.bar.finish_and_clear();
            self.bar = progress::batch(counts.total, done);
            self.is_counting = true;
        }
        if self.is_counting {
            self.bar.set_message(counts.failed.to_string());
            self.bar.set_position(done);
        }
    }
}

/// The media type of a form, and what stands before and behind the file in it.
fn form(input: &Path) -> Result<(String, Vec<u8>, Vec<u8>), Failure> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::because("the system gives no random bytes", error))?;
    // Nobody can have put it into the file.
    let boundary: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = input.file_name().unwrap_or_default().to_string_lossy();
    let name = name.replace(|c: char| c == '"' || c == '\\' || c.is_control(), "_");
    let head = format!(
        "--{boundary}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\ncontent-type: application/jsonl\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let media_type = format!("multipart/form-data; boundary={boundary}");
    Ok((media_type, head.into_bytes(), tail.into_bytes()))
}

/// What is wrong with the input, with a line for each mistake.
fn mistakes(errors: Option<Mistakes>, input: &Path) -> String {
    let mistakes = errors.map(|errors| errors.data).unwrap_or_default();
    let mut text = format!(
        "{} has {}, so no call was made:",
        input.display(),
        count(mistakes.len(), "mistake")
    );
    for mistake in mistakes.iter().take(MAX_PRINTED) {
        text += &match mistake.line {
            Some(line) => format!("\nline {line}: {}", mistake.message),
            None => format!("\n{}", mistake.message),
        };
    }
    if mistakes.len() > MAX_PRINTED {
        let more = count(mistakes.len() - MAX_PRINTED, "more mistake");
        text += &format!("\n{more}; --json prints all that the server reports");
    }
    text
}

/// The end of a batch, in one line.
fn text(batch: &Batch, paths: &Paths) -> String {
    let counts = batch.request_counts;
    let mut text = format!(
        "{}: {} of {} calls succeeded ({})",
        batch.status,
        counts.completed,
        counts.total,
        paths.output.display()
    );
    if batch.error_file_id.is_some() {
        text += &format!(", {} failed ({})", counts.failed, paths.errors.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_twenty_mistakes_are_printed() {
        let mistake = |line| Mistake {
            line: Some(line),
            message: "is wrong".to_owned(),
        };
        let of = |n| {
            let data = (1..=n).map(mistake).collect();
            mistakes(Some(Mistakes { data }), Path::new("in.jsonl"))
        };
        let expected = "in.jsonl has 1 mistake, so no call was made:\nline 1: is wrong";
        assert_eq!(of(1), expected);
        assert_eq!(of(20).lines().count(), 21);
        let long = of(23);
        assert_eq!(long.lines().count(), 22);
        assert!(long.contains("\n3 more mistakes; --json"), "{long}");
    }

    #[test]
    fn the_name_of_a_file_cannot_end_its_header() {
        let (media_type, head, tail) = form(Path::new("a/b\"\r\nc\\ü.jsonl")).unwrap();
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("filename=\"b___c_ü.jsonl\"\r\n"), "{head}");
        let boundary = media_type.split_once("boundary=").unwrap().1;
        assert_eq!(head.matches(boundary).count(), 2);
        assert_eq!(tail, format!("\r\n--{boundary}--\r\n").into_bytes());
    }
}
