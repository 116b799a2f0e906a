//! A connection to a server's own Unix socket, for simple queries: only the server of that folder can answer, whatever its
//! port does. The messages are those of PostgreSQL's frontend/backend protocol 3.0.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::template::USER;

const PROTOCOL_3_0: u32 = 3 << 16;
/// Maximum length of a message, in bytes. A larger one means that the stream is out of step.
const LONGEST: usize = 64 << 20;

/// Runs the statements of `sql` in `database`, and returns the rows of all of them: one a line, columns separated by `|`,
/// NULL as the empty text. An error of the server is an `Err` with its code and message.
pub(super) async fn query(socket: &Path, database: &str, sql: &str) -> io::Result<String> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let startup = format!("user\0{USER}\0database\0{database}\0\0");
    let mut message = PROTOCOL_3_0.to_be_bytes().to_vec();
    message.extend(startup.into_bytes());
    stream.write_all(&with_length(&message)).await?;
    read_until_ready(&mut stream).await?;
    let message = format!("{sql}\0").into_bytes();
    stream.write_all(b"Q").await?;
    stream.write_all(&with_length(&message)).await?;
    let rows = read_until_ready(&mut stream).await?;
    Ok(rows.join("\n"))
}

/// The length counts itself.
fn with_length(message: &[u8]) -> Vec<u8> {
    let length = (message.len() + 4) as u32;
    [&length.to_be_bytes(), message].concat()
}

/// Reads to the message that the server is ready for a query, or to its first error.
async fn read_until_ready(stream: &mut BufReader<UnixStream>) -> io::Result<Vec<String>> {
    let mut rows = Vec::new();
    loop {
        let kind = stream.read_u8().await?;
        let length = (stream.read_u32().await? as usize).saturating_sub(4);
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        match kind {
            b'Z' => return Ok(rows),
            b'D' => rows.push(row(&message).ok_or(io::ErrorKind::InvalidData)?),
            b'E' => return Err(io::Error::other(error(&message))),
            // Any authentication other than "you are in".
            b'R' if message != [0; 4] => {
                return Err(io::Error::other("the server asks for a password"));
            }
            _ => {}
        }
    }
}

/// The columns of a `DataRow`. The length of NULL is -1.
fn row(message: &[u8]) -> Option<String> {
    let (_count, mut rest) = message.split_at_checked(2)?;
    let mut columns = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = after.split_at_checked(length)?;
        columns.push(String::from_utf8_lossy(value));
        rest = after;
    }
    Some(columns.join("|"))
}

/// The SQLSTATE and the message of an `ErrorResponse`.
fn error(message: &[u8]) -> String {
    let fields = || message.split(|byte| *byte == 0);
    let field = |name: u8| {
        let value = fields().find_map(|field| field.strip_prefix(&[name]));
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    format!("{}: {}", field(b'C'), field(b'M'))
}
