//! Calls to a provider that cost nothing: its model list, and a key's quota. They count for no key.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Body;
use http_body_util::BodyExt;
use keypool_core::fault::{Class, Fault};
use keypool_core::pool::MemberRef;
use keypool_providers::errors::ErrorResponse;
use keypool_providers::protocol::ListedModel;
use keypool_providers::quota::{QuotaError, QuotaFigures};
use keypool_providers::response::readable;

use crate::context::Gateway;
use crate::key_checks::CheckResult;
use crate::prebuilt_headers::KeyHeaders;
use crate::snapshot::PoolEntry;
use crate::upstream::{RequestBody, UpstreamRequest, content_encoding};

/// Maximum size of a provider's list, in bytes.
const MAX_LIST: usize = 8 << 20;
/// Maximum size of a quota's response, in bytes.
const MAX_QUOTA: usize = 64 << 10;

/// Why a call brought nothing.
#[derive(Debug)]
pub(crate) enum FreeCallError {
    /// The provider refused, and what that means.
    Refused(Fault),
    /// The provider does not offer the call.
    NotOffered,
    /// The provider did not respond.
    NoResponse,
    /// The response is not what was asked for.
    Unreadable,
    /// The response has no quota that can be read.
    NoQuota(QuotaError),
}

impl FreeCallError {
    /// What it says about the key.
    pub(crate) fn check(&self) -> CheckResult {
        match self {
            Self::Refused(fault) if fault.class == Class::Rejected => CheckResult::Rejected,
            // The provider knows the key if it says this of its account.
            Self::Refused(fault) if fault.class == Class::Exhausted => CheckResult::Works,
            error => CheckResult::Unknown(error.code().into()),
        }
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Refused(fault) => fault.class.as_str(),
            Self::NotOffered => "not_offered",
            Self::NoResponse => "upstream_unreachable",
            Self::Unreadable => "unreadable_response",
            Self::NoQuota(error) => error.as_str(),
        }
    }
}

/// What is asked for.
struct Get<'a> {
    /// Path and query, as they are sent.
    target: String,
    headers: &'a [(&'static str, &'static str)],
    /// Maximum size of the response, in bytes.
    limit: usize,
}

/// The models that the provider lists for this key. The caller sets the deadline.
pub(crate) async fn list_models(
    gw: &Gateway,
    entry: &PoolEntry,
    member: &MemberRef,
) -> Result<Vec<ListedModel>, FreeCallError> {
    let dialect = entry.dialect;
    let list = dialect.list_models.ok_or(FreeCallError::NotOffered)?;
    let query = Some(list.query).filter(|query| !query.is_empty());
    let protocol = dialect.protocols[0];
    let body = get(
        gw,
        entry,
        member,
        Get {
            target: entry.upstream_path_and_query(member, protocol, list.path, query),
            headers: list.headers,
            limit: MAX_LIST,
        },
    );
    dialect
        .parse_models(&body.await?)
        .ok_or(FreeCallError::Unreadable)
}

/// What the provider reports of the key's quota. The caller sets the deadline.
pub(crate) async fn quota(
    gw: &Gateway,
    entry: &PoolEntry,
    member: &MemberRef,
) -> Result<QuotaFigures, FreeCallError> {
    let not_offered = FreeCallError::NoQuota(QuotaError::NotOffered);
    let call = entry.dialect.quota.ok_or(not_offered)?;
    let body = get(
        gw,
        entry,
        member,
        Get {
            target: (call.path)(member.base_url.path()),
            headers: &[],
            limit: MAX_QUOTA,
        },
    );
    let told = entry
        .dialect
        .parse_quota(member.base_url.authority(), &body.await?);
    told.map_err(FreeCallError::NoQuota)
}

/// The body of a successful response.
async fn get(
    gw: &Gateway,
    entry: &PoolEntry,
    member: &MemberRef,
    call: Get<'_>,
) -> Result<Vec<u8>, FreeCallError> {
    let headers = headers(call.headers);
    let (dialect, method) = (entry.dialect, Method::GET);
    let build = || {
        let key = KeyHeaders::of(member)?;
        let mut headers: Vec<_> = headers.iter().collect();
        headers.push(key.credential(dialect.protocols[0])?);
        let (target, host) = (call.target.clone(), key.host.as_ref()?);
        UpstreamRequest::new(&method, target, host, headers, RequestBody::default())
    };
    let (base_url, proxy) = (&member.base_url, member.proxy.as_ref());
    let connect = member.keys().settings().timeouts.connect;
    let sending = gw.upstream.send(base_url, proxy, &build, connect, true);
    let response = sending.await.map_err(|_| FreeCallError::NoResponse)?;
    let (parts, body) = response.into_parts();
    let body = read_whole(body, call.limit)
        .await
        .ok_or(FreeCallError::Unreadable)?;
    let body = readable(content_encoding(&parts.headers), &body, call.limit);
    if parts.status.is_success() {
        return Ok(body.into_owned());
    }
    Err(FreeCallError::Refused(dialect.judge(&ErrorResponse {
        status: parts.status.as_u16(),
        headers: &parts.headers,
        body: &body,
        now: gw.clock.wall(),
    })))
}

fn headers(further: &[(&'static str, &'static str)]) -> HeaderMap {
    let further = further.iter().map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    let agent = concat!("keypool/", env!("CARGO_PKG_VERSION"));
    let mut headers: HeaderMap = further.collect();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    headers
}

/// A body of at most `limit` bytes, in one buffer: a provider may send it byte by byte, and keeping each piece would take
/// many times its length. `None` if it is longer, or broke off.
async fn read_whole<B>(body: B, limit: usize) -> Option<Vec<u8>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.ok()?.into_data() else {
            continue;
        };
        if piece.len() > limit - whole.len() {
            return None;
        }
        whole.extend_from_slice(&piece);
        tokio::task::coop::consume_budget().await;
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    /// This number of bytes, one by one.
    struct OneByOne(usize);

    impl Body for OneByOne {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(left) = self.0.checked_sub(1) else {
                return Poll::Ready(None);
            };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn a_list_in_tiny_pieces_becomes_one_buffer_within_its_limit() {
        let whole = read_whole(OneByOne(100_000), 100_000).await.unwrap();
        assert_eq!(whole, [b'x'].repeat(100_000));
        assert!(whole.capacity() <= 2 * whole.len(), "{}", whole.capacity());
        assert_eq!(read_whole(OneByOne(100_001), 100_000).await, None);
        assert_eq!(read_whole(OneByOne(0), 0).await, Some(Vec::new()));
    }
}
