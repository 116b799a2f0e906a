//! `keypool keys import`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::super::client::{Client, path};
use super::super::format::Format;
use super::super::table::count;
use super::super::{Failure, print, progress};
use super::exit_code;

/// Maximum size of what is read before it is sent, in bytes: one more than the server takes, so that it says so.
const MAX_READ: u64 = (64 << 20) + 1;
/// Maximum number of malformed lines that are printed.
const MAX_PRINTED: usize = 100;

#[derive(Args)]
pub(super) struct ImportArgs {
    /// The pool that gets the keys.
    #[arg(long, value_name = "POOL")]
    pool: String,
    /// Format of the file [default: by the ending of its name: .csv, .json, else text].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// File with the keys; `-` reads standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Deserialize)]
struct Report {
    added: usize,
    known: usize,
    malformed: usize,
    keys: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    line: usize,
    name: Option<String>,
    error: Option<String>,
}

pub(super) fn run(args: &ImportArgs, client: &Client) -> Result<ExitCode, Failure> {
    // A wrong token or pool is reported before anything is read or sent.
    client.get(&path(&["pools", &args.pool]))?;
    let source = match is_standard_input(&args.file) {
        true => "standard input".to_owned(),
        false => args.file.display().to_string(),
    };
    let (content, length) = open(&args.file)
        .map_err(|error| Failure::because(format!("cannot read {source}"), error))?;
    let format = args.format.unwrap_or_else(|| Format::of(&args.file));
    let what = format!("importing {source} into pool {}", args.pool);
    let bar = progress::bytes(&what, length, client.json);
    let sent = client.upload(
        &path(&["pools", &args.pool, "keys", "import"]),
        format.media_type(),
        (bar.wrap_read(content), length),
    );
    bar.finish_and_clear();
    let answer = sent?;
    let report: Report = client.read(&answer)?;
    match client.json {
        true => print(&format!("{answer:#}")),
        false => print(&text(&report, &args.pool)),
    }?;
    Ok(exit_code(report.added + report.known > 0))
}

fn is_standard_input(file: &Path) -> bool {
    file == Path::new("-")
}

/// What is sent, and its length in bytes. Other than a file, it may come slowly, so it is read before the call begins.
fn open(file: &Path) -> std::io::Result<(Box<dyn Read>, u64)> {
    let input: Box<dyn Read> = if is_standard_input(file) {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = File::open(file)?;
        let metadata = opened.metadata()?;
        if metadata.is_file() {
            // A file that grows meanwhile is sent up to here.
            let length = metadata.len();
            return Ok((Box::new(opened.take(length)), length));
        }
        Box::new(opened)
    };
    let mut content = Vec::new();
    input.take(MAX_READ).read_to_end(&mut content)?;
    let length = content.len() as u64;
    Ok((Box::new(std::io::Cursor::new(content)), length))
}

fn text(report: &Report, pool: &str) -> String {
    if report.keys.is_empty() {
        return "Nothing was imported: there is no key in it.".to_owned();
    }
    let mut text = format!(
        "Pool {pool}: {} added, {} known, {} malformed.",
        count(report.added, "key"),
        report.known,
        report.malformed
    );
    let malformed = report
        .keys
        .iter()
        .filter_map(|line| Some((line, line.error.as_ref()?)));
    for (line, error) in malformed.take(MAX_PRINTED) {
        let name = line.name.as_ref().map(|name| format!(" ({name})"));
        text += &format!(
            "\n  line {}{}: {error}",
            line.line,
            name.unwrap_or_default()
        );
    }
    if report.malformed > MAX_PRINTED {
        let more = count(report.malformed - MAX_PRINTED, "more malformed line");
        text += &format!("\n  {more}; --json prints all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_malformed_lines_up_to_a_maximum() {
        let line = |line| Line {
            line,
            name: (line == 2).then(|| "n".to_owned()),
            error: (line > 1).then(|| "is wrong".to_owned()),
        };
        let report = |lines: usize| Report {
            added: 1,
            known: 0,
            malformed: lines - 1,
            keys: (1..=lines).map(line).collect(),
        };
        let expected = "Pool p: 1 key added, 0 known, 2 malformed.\n  line 2 (n): is wrong\n  line 3: is wrong";
        assert_eq!(text(&report(3), "p"), expected);
        let long = text(&report(103), "p");
        assert_eq!(long.lines().count(), 102);
        assert!(
            long.ends_with("2 more malformed lines; --json prints all"),
            "{long}"
        );
    }
}
