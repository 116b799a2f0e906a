//! One attempt to announce the end of a job.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use keypool_core::store::ClaimedWebhook;
use serde_json::json;
use tokio::time::timeout;

use super::address::not_public;
use crate::context::Gateway;
use crate::upstream::{RequestBody, Unread, UpstreamRequest};
use crate::webhook_hosts::{Addresses, WebhookUrl};
use crate::webhook_secret::WebhookSecret;

/// How long an attempt may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the body of the response is read.
const DRAIN: Duration = Duration::from_secs(1);
/// Maximum size of the body of a response, in bytes. What is beyond it is not read.
const MAX_BODY: usize = 64 * 1024;
/// Maximum number of addresses of a host that are tried.
const MAX_ADDRESSES: usize = 4;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// A sentence without secrets.
    pub(super) error: String,
    /// The receiver wants no further attempt.
    pub(super) is_final: bool,
}

impl From<String> for Failed {
    fn from(error: String) -> Self {
        Self {
            error,
            is_final: false,
        }
    }
}

/// Sends the announcement once.
pub(super) async fn deliver(gw: &Gateway, webhook: &ClaimedWebhook) -> Result<(), Failed> {
    let attempt = timeout(DEADLINE, send(gw, webhook)).await;
    let (status, rest) = attempt.unwrap_or_else(|_| {
        let seconds = DEADLINE.as_secs();
        Err(format!("no response within {seconds} s"))
    })?;
    // Whatever it says, the status is what counts.
    let _ = timeout(DRAIN, rest.drain(MAX_BODY)).await;
    if status.is_success() {
        return Ok(());
    }
    Err(Failed {
        error: match status.is_redirection() {
            true => format!("status {}: redirects are not followed", status.as_u16()),
            false => format!("status {}", status.as_u16()),
        },
        is_final: status == StatusCode::GONE,
    })
}

async fn send(gw: &Gateway, webhook: &ClaimedWebhook) -> Result<(StatusCode, Unread), String> {
    // As the configuration is now.
    let snapshot = gw.snapshot();
    let caller = webhook.caller.as_deref();
    let key = caller.and_then(|name| snapshot.virtual_key_named(name));
    let secret = key.and_then(|key| key.webhook_secret.as_ref());
    let secret = secret.ok_or("the virtual key is gone, or has no `webhook_secret` any more")?;
    let url = WebhookUrl::parse(&webhook.url)?;
    let allowed = url.allowed_by(&snapshot.settings.jobs.webhook_hosts)?;
    let addresses = addresses(&url, allowed).await?;

    let message = Message::new(webhook, secret, gw.clock.wall());
    let body = || RequestBody::new([message.body.clone()]);
    let (method, host) = (
        Method::POST,
        HeaderValue::try_from(&**url.base_url.authority()),
    );
    let host = host.map_err(|_| "the host is not valid in HTTP")?;
    let request = || {
        let headers = message.headers.iter().map(|(name, value)| (name, value));
        let target = url.path_and_query.clone();
        UpstreamRequest::new(&method, target, &host, headers.collect(), body())
    };
    let sent = gw.upstream.send_once(&url.base_url, &addresses, &request);
    sent.await.map_err(|error| error.to_string())
}

/// The addresses of the URL's host, all of them checked.
async fn addresses(url: &WebhookUrl, allowed: Addresses) -> Result<Vec<SocketAddr>, String> {
    let host = &url.host;
    let found = tokio::net::lookup_host((&**host, url.port)).await;
    let found = found.map_err(|error| format!("no address of {host} was found: {error}"))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if allowed == Addresses::Public {
        let mut checked = addresses.iter().map(SocketAddr::ip);
        let refused = checked.find_map(|address| Some((address, not_public(address)?)));
        if let Some((address, what)) = refused {
            return Err(format!(
                "{host} has the address {address}, {what}, which is not called: if it is meant, list the host with http:// in [jobs] webhook_hosts"
            ));
        }
    }
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// What is sent, signed.
struct Message {
    headers: [(HeaderName, HeaderValue); 5],
    body: Bytes,
}

impl Message {
    fn new(webhook: &ClaimedWebhook, secret: &WebhookSecret, now: SystemTime) -> Self {
        let status = webhook.status.as_str();
        let ended_at = Timestamp::try_from(webhook.ended_at).unwrap_or(Timestamp::UNIX_EPOCH);
        let body = json!({
            "type": format!("job.{status}"),
            "timestamp": format!("{ended_at:.3}"),
            "data": { "id": &*webhook.job, "status": status },
        });
        let body = body.to_string();
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let signature = secret.sign(&webhook.job, now, &body);
        // Neither an id nor base64 has a character that a header may not have.
        let value =
            |text: &str| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        let agent = concat!("keypool/", env!("CARGO_PKG_VERSION"));
        Self {
            headers: [
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (USER_AGENT, HeaderValue::from_static(agent)),
                (HeaderName::from_static("webhook-id"), value(&webhook.job)),
                (HeaderName::from_static("webhook-timestamp"), now.into()),
                (
                    HeaderName::from_static("webhook-signature"),
                    value(&signature),
                ),
            ],
            body: body.into(),
        }
    }
}
