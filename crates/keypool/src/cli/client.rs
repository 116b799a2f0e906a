//! Calls a server's admin API, or its data plane as a caller, and says in a sentence what went wrong.

use std::io::{Read, Write};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Body, Error, SendBody, Timeout};

use super::Failure;
use super::server::{Credential, ServerArgs, Target};

/// How long opening a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a call may take that asks many providers or sends a file.
const LONG_DEADLINE: Duration = Duration::from_secs(600);
/// Maximum size of a response, in bytes.
const MAX_RESPONSE: u64 = 256 << 20;
/// What a segment of a path may contain as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A server to be called.
pub(super) struct Client {
    agent: Agent,
    target: Target,
    /// Whether the command prints JSON.
    pub(super) json: bool,
}

/// A path of the admin API.
pub(super) fn path(below: &[&str]) -> String {
    segments("/api/v1/admin", below)
}

/// A path: `base`, and these segments below it.
pub(super) fn segments(base: &str, below: &[&str]) -> String {
    let mut path = base.to_owned();
    for segment in below {
        path.push('/');
        path.extend(utf8_percent_encode(segment, SEGMENT));
    }
    path
}

impl Client {
    /// A client of the server that the arguments name.
    pub(super) fn new(args: &ServerArgs) -> Result<Self, Failure> {
        Ok(Self::of(args.target()?, args.json))
    }

    /// A client of this server.
    pub(super) fn of(target: Target, json: bool) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // The token is for this server.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_DEADLINE))
            .user_agent(concat!("keypool/", env!("CARGO_PKG_VERSION")));
        if target.url.is_loopback {
            config = config.proxy(None);
        }
        if target.url.is_https {
            let tls = TlsConfig::builder().root_certs(roots()).build();
            config = config.tls_config(tls);
        }
        Self {
            agent: config.build().into(),
            target,
            json,
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::GET, path, ())?, DEADLINE)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::DELETE, path, ())?, DEADLINE)
    }

    /// An action without a body.
    pub(super) fn act(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::POST, path, "")?, DEADLINE)
    }

    /// An action that asks many providers.
    pub(super) fn act_long(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::POST, path, "")?, LONG_DEADLINE)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self.request(Method::POST, path, body.to_string())?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        self.send(request, DEADLINE)
    }

    /// Sends `length` bytes of `content`. It may take any time, as long as it goes on.
    pub(super) fn upload(
        &self,
        path: &str,
        media_type: &str,
        (mut content, length): (impl Read, u64),
    ) -> Result<Value, Failure> {
        let body = SendBody::from_reader(&mut content);
        let mut request = self.request(Method::POST, path, body)?;
        let headers = request.headers_mut();
        let media_type = HeaderValue::from_str(media_type).map_err(|_| self.unexpected())?;
        headers.insert(CONTENT_TYPE, media_type);
        headers.insert(CONTENT_LENGTH, length.into());
        // A server that refuses the call closes the connection, and what is sent then could hide its reason.
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        let request = self.agent.configure_request(request);
        let request = request
            .timeout_per_write(Some(DEADLINE))
            .timeout_recv_response(Some(LONG_DEADLINE));
        let response = self.agent.run(request.build());
        let response = response.map_err(|error| self.failed(&error, LONG_DEADLINE))?;
        self.document(response, LONG_DEADLINE)
    }

    /// Writes what is at a path to `to`. It may take any time, as long as it goes on.
    pub(super) fn download(&self, path: &str, to: &mut impl Write) -> Result<(), Failure> {
        let request = self.request(Method::GET, path, ())?;
        let request = self.agent.configure_request(request);
        let request = request.timeout_per_read(Some(DEADLINE)).build();
        let response = self.agent.run(request);
        let mut response = response.map_err(|error| self.failed(&error, DEADLINE))?;
        if !response.status().is_success() {
            self.document(response, DEADLINE)?;
            return Err(self.unexpected());
        }
        let length = response.body().content_length();
        let copied = std::io::copy(&mut response.body_mut().as_reader(), to);
        let url = &self.target.url.text;
        match copied {
            Ok(copied) if length.is_none_or(|length| length == copied) => Ok(()),
            Ok(_) => Err(Failure::Other(format!("the download from {url} broke off"))),
            Err(error) => Err(Failure::because(
                format!("the download from {url} broke off"),
                error,
            )),
        }
    }

    /// The URL of the server.
    pub(super) fn url(&self) -> &str {
        &self.target.url.text
    }

    /// All items of a list, which comes in pages.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut query = "?limit=1000".to_owned();
        loop {
            let mut page = self.get(&format!("{path}{query}"))?;
            match page["items"].take() {
                Value::Array(items) => all.extend(items),
                _ => return Err(self.unexpected()),
            }
            let Some(next) = page["next"].as_str() else {
                return Ok(all);
            };
            let next = utf8_percent_encode(next, NON_ALPHANUMERIC);
            query = format!("?limit=1000&cursor={next}");
        }
    }

    /// What a response means.
    pub(super) fn read<T: DeserializeOwned>(&self, value: &Value) -> Result<T, Failure> {
        T::deserialize(value).map_err(|_| self.unexpected())
    }

    /// The same of each item of a list.
    pub(super) fn read_all<T: DeserializeOwned>(&self, items: &[Value]) -> Result<Vec<T>, Failure> {
        items.iter().map(|item| self.read(item)).collect()
    }

    fn request<B>(&self, method: Method, path: &str, body: B) -> Result<Request<B>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.target.url.text));
        if let Some(token) = &self.target.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(body);
        // The cause may quote the token.
        request.map_err(|_| {
            let (noun, source) = (self.target.credential.noun(), &self.target.token_source);
            Failure::Other(format!(
                "the {noun} of {source} has a character that no HTTP header may have"
            ))
        })
    }

    fn send(
        &self,
        request: Request<impl AsSendBody>,
        deadline: Duration,
    ) -> Result<Value, Failure> {
        let request = self.agent.configure_request(request);
        let request = request.timeout_global(Some(deadline)).build();
        let response = self.agent.run(request);
        let response = response.map_err(|error| self.failed(&error, deadline))?;
        self.document(response, deadline)
    }

    /// The document in a response.
    fn document(&self, mut response: Response<Body>, deadline: Duration) -> Result<Value, Failure> {
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_RESPONSE);
        let body = body.read_to_vec();
        let body = body.map_err(|error| self.failed(&error, deadline))?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        match serde_json::from_slice(&body) {
            Ok(document) if status.is_success() => Ok(document),
            Ok(problem) => Err(self.problem(status, &problem)),
            Err(_) => Err(self.unexpected()),
        }
    }

    fn failed(&self, error: &Error, deadline: Duration) -> Failure {
        let url = &self.target.url.text;
        Failure::NoResponse(match error {
            Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                match self.target.is_local {
                    true => format!(
                        "no server responds at {url}: start one with `keypool serve`, or name another with --server"
                    ),
                    false => format!(
                        "no server responds at {url}: start it, or name another with --server"
                    ),
                }
            }
            Error::HostNotFound => format!("the host of {url} was not found: check the URL"),
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => format!(
                "{url} did not accept a connection within {} s",
                CONNECT_DEADLINE.as_secs()
            ),
            Error::Timeout(_) => format!(
                "{url} did not respond within {} s; the log of the server may say why",
                deadline.as_secs()
            ),
            error => format!("cannot call {url}: {error}"),
        })
    }

    fn problem(&self, status: StatusCode, problem: &Value) -> Failure {
        let Target {
            url,
            credential,
            token_source,
            ..
        } = &self.target;
        let (url, variable) = (&url.text, credential.variable());
        let detail = match credential {
            Credential::AdminToken => &problem["detail"],
            Credential::VirtualKey => &problem["error"]["message"],
        };
        let sentence = match detail.as_str() {
            Some(_) if status == StatusCode::UNAUTHORIZED => match credential {
                Credential::AdminToken => format!(
                    "{url} rejects the admin token, which is from {token_source}: set {variable} to the token of that server"
                ),
                Credential::VirtualKey if self.target.token.is_none() => {
                    format!("{url} needs a virtual key: set {variable} to one of that server")
                }
                Credential::VirtualKey => format!(
                    "{url} rejects the virtual key: set {variable} to one of that server, or unset it to act as the operator"
                ),
            },
            Some(detail) => with_errors(detail, &problem["errors"]),
            None => return self.unexpected(),
        };
        Failure::Problem {
            status,
            sentence,
            json: self.json.then(|| format!("{problem:#}")),
        }
    }

    fn unexpected(&self) -> Failure {
        let url = &self.target.url.text;
        Failure::Other(format!(
            "what responds at {url} is no keypool server of this version: check the URL and the version of the server"
        ))
    }
}

/// A problem in detail, with everything that is wrong on a line of its own.
fn with_errors(detail: &str, errors: &Value) -> String {
    let errors: Vec<&str> = errors
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut text = match errors.join("; ") == detail {
        true if !errors.is_empty() => format!("{} mistakes:", errors.len()),
        _ => detail.to_owned(),
    };
    for error in errors {
        text.push_str("\n  - ");
        text.push_str(error);
    }
    text
}

/// Whom an https connection trusts: the system's authorities, or Mozilla's where the system has none.
fn roots() -> RootCerts {
    let system = rustls_native_certs::load_native_certs().certs;
    if system.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates = system
        .iter()
        .map(|one| Certificate::from_der(one).to_owned());
    RootCerts::from(certificates.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use keypool_core::secret::Secret;

    use super::*;
    use crate::cli::server::ServerUrl;

    fn client_of(listener: &TcpListener) -> Client {
        let addr = listener.local_addr().unwrap();
        let target = Target {
            url: ServerUrl {
                text: format!("http://{addr}"),
                is_https: false,
                is_loopback: true,
            },
            credential: Credential::AdminToken,
            token: Some(Secret::new("a-token")),
            token_source: "a test".to_owned(),
            is_local: false,
        };
        Client::of(target, false)
    }

    #[test]
    fn a_server_that_does_not_respond_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = client_of(&listener);
        let request = client.request(Method::GET, "/", ()).unwrap();
        let failure = client.send(request, Duration::from_millis(100));
        let sentence = failure.unwrap_err().to_string();
        assert!(sentence.contains("did not respond within"), "{sentence}");
    }

    #[test]
    fn a_redirect_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let location = other.local_addr().unwrap();
        let client = client_of(&listener);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{location}/\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
            stream
        });
        let sentence = client.get("/").unwrap_err().to_string();
        assert!(sentence.contains("no keypool server"), "{sentence}");
        server.join().unwrap();
        assert!(other.accept().is_err(), "the token was sent elsewhere");
    }

    #[test]
    fn names_are_encoded_in_paths() {
        let path = path(&["pools", "a/b ü", "keys", "k-1_x.y"]);
        assert_eq!(path, "/api/v1/admin/pools/a%2Fb%20%C3%BC/keys/k-1_x.y");
    }

    #[test]
    fn a_problem_lists_everything_that_is_wrong_once() {
        let errors = serde_json::json!(["`a` is wrong", "`b` is wrong"]);
        let expected = "2 mistakes:\n  - `a` is wrong\n  - `b` is wrong";
        assert_eq!(with_errors("`a` is wrong; `b` is wrong", &errors), expected);
        assert_eq!(with_errors("wrong", &Value::Null), "wrong");
        let expected = "invalid\n  - `a` is wrong\n  - `b` is wrong";
        assert_eq!(with_errors("invalid", &errors), expected);
    }
}
