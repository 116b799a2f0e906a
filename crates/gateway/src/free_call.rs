//! The call to a provider that costs nothing: its model list. It also tells whether a key works.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Body;
use http_body_util::BodyExt;
use keypool_core::fault::{Class, Fault};
use keypool_core::pool::MemberRef;
use keypool_providers::errors::ErrorResponse;
use keypool_providers::protocol::ListedModel;
use keypool_providers::response::readable;
use tokio::time::timeout;

use crate::context::Gateway;
use crate::prebuilt_headers::KeyHeaders;
use crate::snapshot::PoolEntry;
use crate::upstream::{RequestBody, UpstreamRequest, content_encoding};

/// Maximum size of a provider's list, in bytes.
const MAX_LIST: usize = 8 << 20;

/// How long a check of a key may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no list.
#[derive(Debug)]
pub(crate) enum FreeCallError {
    /// The provider refused, and what that means.
    Refused(Fault),
    /// The provider has no list, did not respond, or not with a list.
    NoList,
}

/// The models that the provider lists for this key. The caller sets the deadline. The outcome counts for no key.
pub(crate) async fn list_models(
    gw: &Gateway,
    entry: &PoolEntry,
    member: &MemberRef,
) -> Result<Vec<ListedModel>, FreeCallError> {
    let dialect = entry.dialect;
    let list = dialect.list_models.ok_or(FreeCallError::NoList)?;
    let mut headers = HeaderMap::new();
    for (name, value) in list.headers {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("keypool/", env!("CARGO_PKG_VERSION"))),
    );
    let (method, protocol) = (Method::GET, dialect.protocols[0]);
    let query = Some(list.query).filter(|query| !query.is_empty());
    let build = || {
        let key = KeyHeaders::of(member)?;
        let mut headers: Vec<_> = headers.iter().collect();
        headers.push(key.credential(protocol)?);
        let target = entry.upstream_path_and_query(member, protocol, list.path, query);
        let body = RequestBody::default();
        UpstreamRequest::new(&method, target, key.host.as_ref()?, headers, body)
    };
    let (base_url, proxy) = (&member.base_url, member.proxy.as_ref());
    let connect = member.keys().settings().timeouts.connect;
    let sending = gw.upstream.send(base_url, proxy, &build, connect, true);
    let (parts, body) = sending
        .await
        .map_err(|_| FreeCallError::NoList)?
        .into_parts();
    let body = read_whole(body, MAX_LIST)
        .await
        .ok_or(FreeCallError::NoList)?;
    let coding = content_encoding(&parts.headers);
    if parts.status.is_success() {
        let body = readable(coding, &body, MAX_LIST);
        return dialect.parse_models(&body).ok_or(FreeCallError::NoList);
    }
    Err(FreeCallError::Refused(dialect.judge(&ErrorResponse {
        status: parts.status.as_u16(),
        headers: &parts.headers,
        body: &readable(coding, &body, MAX_LIST),
        now: gw.clock.wall(),
    })))
}

/// Checks the key in the background. If the provider rejects it again, it is invalid.
pub(crate) fn check(gw: &Arc<Gateway>, entry: &Arc<PoolEntry>, member: &MemberRef) {
    if !gw.key_checks.begin(&member.key.id, gw.clock.now()) {
        return;
    }
    let (gw, entry, member) = (Arc::clone(gw), Arc::clone(entry), member.clone());
    let tasks = gw.tasks.clone();
    tasks.spawn(async move {
        let checking = list_models(&gw, &entry, &member);
        let Ok(Err(FreeCallError::Refused(fault))) = timeout(TIMEOUT, checking).await else {
            return;
        };
        if fault.class == Class::Rejected {
            member.reject();
            gw.telemetry.check_failed(&entry.pool, &member);
            gw.telemetry
                .health
                .after_failure(&entry.pool, gw.clock.now());
        }
    });
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
