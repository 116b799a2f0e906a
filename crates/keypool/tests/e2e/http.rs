//! A small HTTP/1.1 client that hides nothing: it can send invalid HTTP and reports how an answer ended.

use std::fmt;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Proper,
    /// The connection broke off before the end.
    Broken,
}

/// A complete answer.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.text().chars().take(2000).collect();
        let (status, headers, end) = (self.status, &self.headers, self.end);
        write!(f, "{status} {headers:?} {text:?} {end:?}")
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The name of the key that served.
    pub(crate) fn key(&self) -> &str {
        self.header("x-keypool-key").unwrap_or_default()
    }

    pub(crate) fn attempts(&self) -> &str {
        self.header("x-keypool-attempts").unwrap_or_default()
    }

    /// The code of one of keypool's own errors, in the format of any protocol.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        code_of(&body)
    }

    pub(crate) fn message(&self) -> String {
        let body = self.json();
        [&body["error"]["message"], &body["detail"]["error"]]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }
}

/// The code in one of keypool's own errors.
pub(crate) fn code_of(body: &Value) -> String {
    [
        &body["error"]["details"][0]["metadata"]["code"],
        &body["error"]["code"],
        &body["detail"]["code"],
        &body["code"],
    ]
    .into_iter()
    .find_map(Value::as_str)
    .unwrap_or_default()
    .to_owned()
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// A connection to the gateway.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    host: String,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).await.expect("connect");
        stream.set_nodelay(true).expect("no delay");
        Connection {
            stream,
            buffer: Vec::new(),
            host: addr.to_string(),
        }
    }

    /// Writes a well-formed request. A `host` among the headers replaces the right one.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            head += &format!("content-length: {}\r\n", body.len());
        }
        self.write(head.as_bytes()).await;
        self.write(b"\r\n").await;
        self.write(body).await;
    }

    /// Writes raw bytes. If the other side has closed, reading shows it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Closes the writing side.
    pub(crate) async fn end_writing(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads the head of the next answer; `None` if the connection ends without one.
    pub(crate) async fn answer(mut self) -> Option<Answer> {
        loop {
            if let Some(at) = position(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                let head = String::from_utf8(head).expect("a head of text");
                let mut lines = head.trim_end().split("\r\n");
                let status = lines
                    .next()
                    .and_then(|line| line.split(' ').nth(1)?.parse().ok());
                let headers: Vec<_> = lines
                    .filter_map(|line| line.split_once(':'))
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                    .collect();
                let framing = match status {
                    Some(204 | 304) => Framing::Over,
                    _ => Framing::of(&headers),
                };
                return Some(Answer {
                    status: status.expect("a status"),
                    headers,
                    connection: self,
                    framing,
                });
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads a whole answer and returns the connection with it.
    pub(crate) async fn reply(self) -> Option<(Reply, Connection)> {
        let mut answer = self.answer().await?;
        let reply = answer.rest().await;
        Some((reply, answer.connection))
    }

    /// Waits until the other side closes the connection, and ignores what it sends before.
    pub(crate) async fn is_closed(&mut self) -> bool {
        while self.more().await {}
        true
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }
}

/// What is left of the body.
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
    Over,
}

impl Framing {
    fn of(headers: &[(String, String)]) -> Framing {
        if let Some(length) = find(headers, "content-length") {
            Framing::Length(length.parse().expect("a length"))
        } else if find(headers, "transfer-encoding").is_some() {
            Framing::Chunked
        } else {
            Framing::UntilClosed
        }
    }
}

/// An answer whose body has not been read yet. Dropping it closes its connection.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    connection: Connection,
    framing: Framing,
}

impl Answer {
    /// The next piece of the body as it arrives; `Ok(None)` at its proper end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, End> {
        match self.framing {
            Framing::Over | Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                if self.connection.buffer.is_empty() && !self.connection.more().await {
                    return Err(End::Broken);
                }
                let n = left.min(self.connection.buffer.len());
                self.framing = Framing::Length(left - n);
                Ok(Some(self.connection.buffer.drain(..n).collect()))
            }
            Framing::UntilClosed => {
                if self.connection.buffer.is_empty() && !self.connection.more().await {
                    self.framing = Framing::Over;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.connection.buffer)))
            }
            Framing::Chunked => self.chunk().await,
        }
    }

    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, End> {
        let size = loop {
            if let Some(at) = position(&self.connection.buffer, b"\r\n") {
                let line: Vec<u8> = self.connection.buffer.drain(..at + 2).take(at).collect();
                let line = String::from_utf8(line).expect("a chunk's size");
                break usize::from_str_radix(&line, 16).expect("a chunk's size");
            }
            if !self.connection.more().await {
                return Err(End::Broken);
            }
        };
        while self.connection.buffer.len() < size + 2 {
            if !self.connection.more().await {
                return Err(End::Broken);
            }
        }
        let chunk: Vec<u8> = self
            .connection
            .buffer
            .drain(..size + 2)
            .take(size)
            .collect();
        if size == 0 {
            self.framing = Framing::Over;
            return Ok(None);
        }
        Ok(Some(chunk))
    }

    async fn rest(&mut self) -> Reply {
        let mut body = Vec::new();
        let end = loop {
            match self.next().await {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => break End::Proper,
                Err(end) => break end,
            }
        };
        Reply {
            status: self.status,
            headers: self.headers.clone(),
            body,
            end,
        }
    }

    /// The answer after an interim one, such as 100.
    pub(crate) async fn after_interim(self) -> (Reply, Connection) {
        let reply = self.connection.reply().await;
        reply.expect("an answer after the interim one")
    }

    /// The rest of the answer.
    pub(crate) async fn whole(mut self) -> Reply {
        self.rest().await
    }
}

fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
