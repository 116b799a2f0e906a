//! A connection to a server's own Unix socket: only the server of that folder can answer, whatever its port does.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Sends `command` after the password, if there is one, and returns its reply as text. See [`read_reply`].
pub(super) async fn command(
    socket: &Path,
    password: Option<&str>,
    command: &[&str],
) -> io::Result<String> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    if let Some(password) = password {
        stream.write_all(&encode(&["AUTH", password])).await?;
        read_reply(&mut stream).await?;
    }
    stream.write_all(&encode(command)).await?;
    read_reply(&mut stream).await
}

fn encode(command: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// One reply. An array is its elements, one a line; nothing (`nil`) is the empty text; an error is an `Err`.
async fn read_reply(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut elements = Vec::new();
    let mut missing = 1;
    while missing > 0 {
        missing -= 1;
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or_default();
        match kind {
            "-" => return Err(io::Error::other(rest.to_owned())),
            "*" => missing += number(rest)?.max(0),
            "$" => elements.push(match usize::try_from(number(rest)?) {
                Ok(length) => read_bulk(stream, length).await?,
                Err(_) => String::new(),
            }),
            _ => elements.push(rest.to_owned()),
        }
    }
    Ok(elements.join("\n"))
}

async fn read_bulk(stream: &mut BufReader<UnixStream>, length: usize) -> io::Result<String> {
    let mut bytes = vec![0; length + "\r\n".len()];
    stream.read_exact(&mut bytes).await?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn number(text: &str) -> io::Result<i64> {
    text.parse().map_err(io::Error::other)
}
