//! A client that shows what a library would hide: truncated responses, resets, chunk boundaries.
//!
//! It must never repair what it reads.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Complete, by its length or its last chunk.
    Proper,
    /// The connection was closed before the end.
    Closed,
    /// The connection was reset before the end.
    Reset,
}

/// A response as it was received.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.chunks.concat()).expect("text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.chunks.concat())
            .unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The name and JSON data of each event. `[DONE]` is a string.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        let text = self.text().replace("\r\n", "\n");
        let blocks = text.split("\n\n").filter(|block| !block.is_empty());
        let read = |block: &str| {
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::to_owned)
            };
            let data = field("data: ").expect("data");
            let data = if data == "[DONE]" {
                Value::from(data)
            } else {
                serde_json::from_str(&data).expect("JSON")
            };
            (field("event: ").unwrap_or_default(), data)
        };
        blocks.map(read).collect()
    }
}

/// A connection to the mock.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).await.expect("connect");
        stream.set_nodelay(true).expect("no delay");
        Client {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends a request. `headers` are whole lines, such as `x-api-key: k`.
    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &str) {
        self.promise(method, path, headers, body.len()).await;
        self.stream.write_all(body.as_bytes()).await.expect("write");
    }

    /// Sends the head of a request with a body of `length` bytes.
    pub(crate) async fn promise(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        length: usize,
    ) {
        let mut text =
            format!("{method} {path} HTTP/1.1\r\nhost: mock\r\ncontent-length: {length}\r\n");
        headers
            .iter()
            .for_each(|line| text += &format!("{line}\r\n"));
        text += "\r\n";
        self.stream.write_all(text.as_bytes()).await.expect("write");
    }

    async fn more(&mut self) -> Result<(), End> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads one line.
    async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).take(at).collect();
                return Ok(String::from_utf8(line).expect("text"));
            }
            self.more().await?;
        }
    }

    /// Reads the head of a response.
    pub(crate) async fn head(&mut self) -> Result<Reply, End> {
        let first = self.line().await?;
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("status");
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            headers.push((name.to_owned(), value.to_owned()));
        }
        Ok(Reply {
            status,
            headers,
            chunks: Vec::new(),
            end: End::Proper,
        })
    }

    /// Reads one chunk of a chunked body. An empty chunk is the end.
    pub(crate) async fn chunk(&mut self) -> Result<Vec<u8>, End> {
        let size = usize::from_str_radix(&self.line().await?, 16).expect("chunk size");
        while self.buffer.len() < size + 2 {
            self.more().await?;
        }
        let chunk = self.buffer.drain(..size + 2).take(size).collect();
        Ok(chunk)
    }

    async fn body(&mut self, reply: &mut Reply) -> Result<(), End> {
        if let Some(length) = reply
            .header("content-length")
            .map(|n| n.parse::<usize>().expect("length"))
        {
            while self.buffer.len() < length {
                if let Err(end) = self.more().await {
                    reply.chunks.push(std::mem::take(&mut self.buffer));
                    return Err(end);
                }
            }
            reply.chunks.push(self.buffer.drain(..length).collect());
            return Ok(());
        }
        loop {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                return Ok(());
            }
            reply.chunks.push(chunk);
        }
    }

    /// Reads a response. `Err` if its head did not arrive.
    pub(crate) async fn reply(&mut self) -> Result<Reply, End> {
        let mut reply = self.head().await?;
        if let Err(end) = self.body(&mut reply).await {
            reply.end = end;
        }
        Ok(reply)
    }
}

/// Sends one request on its own connection.
pub(crate) async fn call(
    mock: &Mock,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Result<Reply, End> {
    within(async {
        let mut client = Client::connect(mock.addr()).await;
        client.send(method, path, headers, body).await;
        client.reply().await
    })
    .await
}

/// Sends a POST with `Authorization: Bearer {key}`, which must get a response.
pub(crate) async fn post(mock: &Mock, key: &str, path: &str, body: &str) -> Reply {
    call(
        mock,
        "POST",
        path,
        &[&format!("authorization: Bearer {key}")],
        body,
    )
    .await
    .expect("an answer")
}

/// Sends a GET with `Authorization: Bearer {key}`, which must get a response.
pub(crate) async fn get(mock: &Mock, key: &str, path: &str) -> Reply {
    call(
        mock,
        "GET",
        path,
        &[&format!("authorization: Bearer {key}")],
        "",
    )
    .await
    .expect("an answer")
}

/// Maximum time that a test waits for something that should happen at once.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("came within 30 s")
}

/// A chat request.
pub(crate) const CHAT: &str =
    r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}"#;
/// A streaming chat request.
pub(crate) const STREAM: &str =
    r#"{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
