//! Which server a command calls, and with which admin token or virtual key.
//!
//! The token that a server has generated is sent to that server only; any other needs `KEYPOOL_ADMIN_TOKEN`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use http::Uri;
use keypool_core::secret::Secret;
use keypool_gateway::settings::{AdminSettings, Settings};

use super::Failure;
use crate::config::{self, Overrides, Sources};
use crate::{secret_file, welcome};

const SERVER_VARIABLE: &str = "KEYPOOL_SERVER";
const TOKEN_VARIABLE: &str = "KEYPOOL_ADMIN_TOKEN";
const KEY_VARIABLE: &str = "KEYPOOL_API_KEY";

/// Flags of every command that calls a running server.
#[derive(Args)]
pub(super) struct ServerArgs {
    /// URL of the server [default: KEYPOOL_SERVER, else the local server of the configuration].
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
    /// Configuration file of the local server [default: keypool.toml in the working directory, if it exists].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// A server that may be called.
pub(super) struct Target {
    pub(super) url: ServerUrl,
    pub(super) credential: Credential,
    /// `None`: the data plane is called without a virtual key.
    pub(super) token: Option<Secret>,
    /// Where the token comes from, for messages.
    pub(super) token_source: String,
    /// Whether the configuration says where it is, and not a flag.
    pub(super) is_local: bool,
}

/// What a command presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    AdminToken,
    VirtualKey,
}

/// Where a server is: its URL without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerUrl {
    pub(super) text: String,
    pub(super) is_https: bool,
    pub(super) is_loopback: bool,
}

impl Credential {
    /// The variable that has it.
    pub(super) fn variable(self) -> &'static str {
        match self {
            Self::AdminToken => TOKEN_VARIABLE,
            Self::VirtualKey => KEY_VARIABLE,
        }
    }

    /// What it is, for messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::AdminToken => "admin token",
            Self::VirtualKey => "virtual key",
        }
    }
}

impl ServerArgs {
    /// The sources of the configuration.
    pub(super) fn sources(&self) -> Result<Sources, Failure> {
        Sources::from_process(self.config.clone(), Overrides::default())
            .map_err(|error| Failure::because("cannot read the working directory", error))
    }

    /// Whether a flag or the variable names a server.
    pub(super) fn names_a_server(&self) -> Result<bool, Failure> {
        Ok(self.server.is_some() || config::variable(&self.sources()?, SERVER_VARIABLE).is_some())
    }

    /// The server to be called.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let sources = self.sources()?;
        let token = config::variable(&sources, TOKEN_VARIABLE);
        let named = match &self.server {
            Some(url) => Some(ServerUrl::parse(url, "--server")?),
            None => server_variable(&sources, token.as_ref().map(|_| Credential::AdminToken))?,
        };
        if let Some(url) = &named {
            url.check_is_private(Credential::AdminToken)?;
        }
        match (named, token) {
            (Some(url), Some(token)) => Ok(Target {
                url,
                credential: Credential::AdminToken,
                token: Some(token),
                token_source: TOKEN_VARIABLE.to_owned(),
                is_local: false,
            }),
            (Some(url), None) => match config::load(&sources) {
                Ok(loaded) if local_url(&loaded.settings)? == url => local(&loaded.settings),
                _ => Err(Failure::Other(format!(
                    "set {TOKEN_VARIABLE} to the admin token of {}: a generated token is sent to the local server only",
                    url.text
                ))),
            },
            (None, _) => local(&config::load(&sources)?.settings),
        }
    }

    /// The server to be called as the caller whose virtual key is in the variable. `None`: the variable is not set.
    pub(super) fn caller_target(&self) -> Result<Option<Target>, Failure> {
        let sources = self.sources()?;
        match config::variable(&sources, KEY_VARIABLE) {
            Some(token) => data_plane(&sources, self.server.as_deref(), Some(token)).map(Some),
            None => Ok(None),
        }
    }

    /// The server whose data plane is called, with the virtual key in the variable if it is set.
    pub(super) fn data_plane(&self) -> Result<Target, Failure> {
        let sources = self.sources()?;
        let token = config::variable(&sources, KEY_VARIABLE);
        data_plane(&sources, self.server.as_deref(), token)
    }
}

/// The server at `url`, or else the one of the variable or of the configuration, to be called as a caller.
fn data_plane(
    sources: &Sources,
    url: Option<&str>,
    token: Option<Secret>,
) -> Result<Target, Failure> {
    let known = token.as_ref().map(|_| Credential::VirtualKey);
    let named = match url {
        Some(url) => Some(ServerUrl::parse(url, "--server")?),
        None => server_variable(sources, known)?,
    };
    let is_local = named.is_none();
    let url = match named {
        Some(url) => url,
        None => local_url(&config::load(sources)?.settings)?,
    };
    if let Some(credential) = known {
        url.check_is_private(credential)?;
    }
    Ok(Target {
        url,
        credential: Credential::VirtualKey,
        token,
        token_source: KEY_VARIABLE.to_owned(),
        is_local,
    })
}

/// The server that the variable names. The author of `.env` in the working directory must not receive the token of the
/// person who works there: a server from that file is called with a token from that file only. `known`: which token there
/// is.
fn server_variable(
    sources: &Sources,
    known: Option<Credential>,
) -> Result<Option<ServerUrl>, Failure> {
    let Some(url) = config::variable(sources, SERVER_VARIABLE) else {
        return Ok(None);
    };
    let is_from_dotenv = |name| config::is_from_dotenv(sources, name);
    if let Some(token) = known.map(Credential::variable)
        && is_from_dotenv(SERVER_VARIABLE)
        && !is_from_dotenv(token)
    {
        return Err(Failure::Other(format!(
            "{SERVER_VARIABLE} is from .env of the working directory and {token} is not, so the token is not sent there: name the server with --server, or export {SERVER_VARIABLE} too"
        )));
    }
    ServerUrl::parse(url.expose(), SERVER_VARIABLE).map(Some)
}

/// The server that the configuration describes.
fn local(settings: &Settings) -> Result<Target, Failure> {
    let url = local_url(settings)?;
    url.check_is_private(Credential::AdminToken)?;
    let (token, token_source) = local_token(&settings.admin)?;
    Ok(Target {
        url,
        credential: Credential::AdminToken,
        token: Some(token),
        token_source,
        is_local: true,
    })
}

fn local_url(settings: &Settings) -> Result<ServerUrl, Failure> {
    let addr = welcome::reachable(settings.server.listen);
    ServerUrl::parse(&format!("http://{addr}"), "server.listen")
}

fn local_token(admin: &AdminSettings) -> Result<(Secret, String), Failure> {
    if let Some(token) = &admin.token {
        return Ok((token.clone(), "the configuration".to_owned()));
    }
    let file = admin.token_file.display();
    let token = secret_file::read(&admin.token_file).map_err(|error| {
        Failure::because(format!("cannot read the admin token in {file}"), error)
    })?;
    let token = token.ok_or_else(|| {
        Failure::Other(format!(
            "there is no admin token in {file}: start a server here with `keypool serve`, or set {TOKEN_VARIABLE}"
        ))
    })?;
    Ok((token, file.to_string()))
}

impl ServerUrl {
    /// Refuses to send a token that others could read on the way.
    fn check_is_private(&self, credential: Credential) -> Result<(), Failure> {
        match self.is_https || self.is_loopback {
            true => Ok(()),
            false => Err(Failure::Other(format!(
                "{} is neither https nor a loopback address, so the {} could be read on the way: name an https URL with --server",
                self.text,
                credential.noun()
            ))),
        }
    }

    /// The URL in `text`, which was given as `name`.
    fn parse(text: &str, name: &str) -> Result<Self, Failure> {
        // What is wrong is not shown: it may have a password.
        let wrong = || {
            Failure::Other(format!(
                "{name} must be the URL of a server, such as https://keypool.example.com, without user name and query"
            ))
        };
        let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() || uri.host() == Some("") {
            return Err(wrong());
        }
        let host = authority.host().trim_matches(['[', ']']);
        let is_loopback = host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let scheme = if is_https { "https" } else { "http" };
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            text: format!("{scheme}://{authority}{path}"),
            is_https,
            is_loopback,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(String, bool, bool)> {
        let url = ServerUrl::parse(text, "--server").ok()?;
        Some((url.text, url.is_https, url.is_loopback))
    }

    #[test]
    fn the_url_of_a_server_is_read_and_loopback_is_recognised() {
        for (text, base, is_https, is_loopback) in [
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080",
                false,
                true,
            ),
            ("http://127.9.9.9/", "http://127.9.9.9", false, true),
            ("http://[::1]:80/", "http://[::1]:80", false, true),
            ("HTTP://LocalHost:1", "http://LocalHost:1", false, true),
            ("https://k.example/a/", "https://k.example/a", true, false),
            (
                "http://127.0.0.1.evil.example",
                "http://127.0.0.1.evil.example",
                false,
                false,
            ),
            (
                "http://localhost.evil.example",
                "http://localhost.evil.example",
                false,
                false,
            ),
            ("http://10.0.0.1", "http://10.0.0.1", false, false),
        ] {
            assert_eq!(
                parse(text),
                Some((base.to_owned(), is_https, is_loopback)),
                "{text}"
            );
        }
        for wrong in [
            "",
            "k.example",
            "localhost:8080",
            "ftp://k.example",
            "https://u:p@k.example",
            "https://k.example?a=b",
            "https://",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
