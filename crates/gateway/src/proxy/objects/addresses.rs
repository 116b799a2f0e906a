//! Replaces addresses in the body of a response that would lead a client past the gateway, with its key.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderValue, Method};
use http_body_util::BodyExt;
use keypool_providers::objects;
use tokio::time::{Instant, timeout_at};

use crate::error::{GatewayError, Kind};
use crate::proxy::attempt::UpstreamResponse;
use crate::proxy::inbound::Call;

/// How long the whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of a body that is rewritten, in bytes. A full page of batches has about 1 MiB.
const MAX_BODY: usize = 16 << 20;

/// Whether the body may have addresses that must be rewritten.
pub(super) fn may_have(call: &Call<'_>, response: &UpstreamResponse) -> bool {
    *call.method != Method::HEAD
        && response.parts.status.is_success()
        && objects::may_have_addresses(call.protocol(), call.path())
}

/// Reads the whole body and rewrites its addresses. Fails rather than let one through: a client would send its virtual
/// key there. `idle`: longest time between two pieces.
pub(super) async fn rewrite(
    response: &mut UpstreamResponse,
    idle: Duration,
) -> Result<(), GatewayError> {
    let mut codings = response.parts.headers.get_all(CONTENT_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(unreadable("it is compressed"));
    }
    let mut body = BytesMut::from(&response.read_bytes()[..]);
    let deadline = Instant::now() + BODY_TIMEOUT;
    while let Some(rest) = response.rest.as_mut() {
        let until = deadline.min(Instant::now() + idle);
        match timeout_at(until, rest.frame()).await {
            Err(_) => return Err(unreadable("its rest did not come in time")),
            Ok(Some(Err(_))) => return Err(unreadable("it broke off")),
            Ok(None) => response.rest = None,
            Ok(Some(Ok(frame))) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
        }
        if body.len() > MAX_BODY {
            return Err(unreadable("it is too large"));
        }
    }
    let local = objects::local_addresses(&body);
    let mut pieces = Vec::with_capacity(2 * local.len() + 1);
    let (body, mut copied) = (body.freeze(), 0);
    for (range, address) in local {
        pieces.push(body.slice(copied..range.start));
        pieces.push(Bytes::from(address));
        copied = range.end;
    }
    pieces.push(body.slice(copied..));
    let whole = Bytes::from(pieces.concat());
    let length = HeaderValue::from(whole.len());
    response.parts.headers.insert(CONTENT_LENGTH, length);
    response.replace_body(whole);
    Ok(())
}

fn unreadable(what: &str) -> GatewayError {
    let message = format!(
        "the provider's answer could not be read, because {what}; it may name an address that must not be called with a virtual key: if the request made something, list what there is before you send it again"
    );
    GatewayError::new(Kind::UpstreamUnreachable, message)
}
