//! Asks people: for secrets, without showing them, and whether they mean it.

use std::fs::File;
use std::io::{BufRead, IsTerminal, Read};

use console::Term;
use keypool_core::secret::Secret;

use super::Failure;

/// Maximum length of a line with a secret, in bytes. Longer than any secret, so that the server says what is wrong.
const MAX_LINE: u64 = 64 << 10;

/// Reads a secret: at a terminal from a prompt that does not show it, else the one line of standard input.
pub(super) fn secret(prompt: &str) -> Result<Secret, Failure> {
    let failed = |error| Failure::because("cannot read the secret", error);
    let text = match std::io::stdin().is_terminal() {
        true => {
            let terminal = terminal().map_err(failed)?;
            terminal.write_str(&format!("{prompt}: ")).map_err(failed)?;
            terminal.read_secure_line().map_err(failed)?
        }
        false => one_line(std::io::stdin().lock())?,
    };
    match text.trim() {
        "" => Err(Failure::Other(
            "no secret was given: type it at the prompt, or send it to standard input".to_owned(),
        )),
        text => Ok(Secret::new(text)),
    }
}

/// The terminal that the process runs at, wherever its standard error goes.
fn terminal() -> std::io::Result<Term> {
    let open = || File::options().read(true).write(true).open("/dev/tty");
    Ok(Term::read_write_pair(open()?, open()?))
}

/// The only line of `input` that is not blank.
fn one_line(input: impl BufRead) -> Result<String, Failure> {
    let mut text = String::new();
    let mut input = input.take(MAX_LINE + 1);
    // The cause may quote what was read.
    let read = input.read_to_string(&mut text);
    if read.is_err() || text.len() as u64 > MAX_LINE {
        return Err(Failure::Other(
            "standard input must have one line of text with the secret, of at most 64 KiB"
                .to_owned(),
        ));
    }
    match text.trim().lines().count() {
        0 | 1 => Ok(text),
        _ => Err(Failure::Other(
            "standard input has more than one line: `keypool keys import` takes many keys"
                .to_owned(),
        )),
    }
}

/// Asks whether to go on, unless `yes` was said before.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Other(format!("{question} Add --yes to confirm.")));
    }
    let mut answer = String::new();
    // A closed terminal is no consent.
    let _ = terminal().and_then(|terminal| terminal.write_str(&format!("{question} [y/N] ")));
    let _ = std::io::stdin().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Other("nothing was changed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line() {
        for (input, expected) in [
            ("sk-1\n", Some("sk-1")),
            ("  sk-1  ", Some("sk-1")),
            ("\nsk-1\r\n\n", Some("sk-1")),
            ("", Some("")),
            ("sk-1\nsk-2\n", None),
        ] {
            let line = one_line(input.as_bytes()).ok();
            assert_eq!(line.as_deref().map(str::trim), expected, "{input:?}");
        }
        assert!(one_line("x".repeat(65_537).as_bytes()).is_err());
        assert!(one_line(&b"\xff"[..]).is_err());
    }
}
