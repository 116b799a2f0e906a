//! Objects that a provider keeps for the account that made them: files, batches, stored responses, tasks and the like.
//! Which calls make them, read them and end them, and where requests (`mentions`) and answers (`answers`) name them.
//!
//! An id is spelt here as a request's body or path spells it; Gemini's with its collection (`files/abc`).
//! Sources: the endpoint lists of the providers' own SDKs; SiliconFlow's video API (`/video/submit`, `requestId`). Must never know a key, a pool or a caller.

mod answers;
mod json;
mod mentions;
mod names;
mod table;

pub use self::answers::{Tells, makes_though_not_stored, tells, told, upload_session};
pub use self::mentions::{Mention, in_body, in_path};

#[cfg(test)]
mod tests;
