//! The record of one request: what happened to it, for the log line at its end, its trace and its response headers.

mod request_log;
mod trace_header;

pub(super) use request_log::{RequestLog, nobody};
