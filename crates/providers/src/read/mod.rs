//! Reads bodies and streams: the fields of a JSON object, multipart forms, events. Bytes in, facts out.
//!
//! Must never know a provider or a protocol.

pub(crate) mod json_scan;
pub(crate) mod json_text;
pub mod list_scan;
pub mod multipart;
pub mod peek;
pub mod sse;
