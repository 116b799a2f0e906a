//! What a response with a success status holds: nothing, an error, opening events or output; and whether a stream is
//! complete.
//!
//! Must never know a provider, and must never change a byte.

mod beginning;
mod decoding;
mod event;
mod stream_end;

pub use self::beginning::{Beginning, BeginningReader, Expected, Media, StreamForm};
pub use self::decoding::{Coding, readable};
pub use self::stream_end::{StreamEnd, StreamKind, StreamOutcome};
