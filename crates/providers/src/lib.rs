//! Dialects: what each provider and each client protocol looks like on the wire. Bytes in, facts out.
//!
//! Nothing here opens a socket, keeps state or knows a pool.

pub mod dialect;
pub mod errors;
pub mod objects;
pub mod protocol;
pub mod quota;
pub mod response;
pub mod secrets;
pub mod usage;

mod provider;
mod read;

pub use self::provider::{base_path, catalogue};
pub use self::read::{list_scan, multipart as form, peek, sse};
