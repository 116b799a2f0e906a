//! Objects that a provider keeps for the account that made them: files, batches, stored responses, tasks and the like.
//! Knows which calls create, list and delete them, and where requests (`mentions`) and answers (`answers`) name them.
//!
//! An id is written here as in a request's body or path; Gemini's include their collection (`files/abc`).
//! Sources: the endpoint lists of the providers' own SDKs; SiliconFlow's video API (`/video/submit`, `requestId`). Must
//! never know a key, a pool or a caller.

mod addresses;
mod answers;
mod json;
mod mentions;
mod names;
mod table;

pub use self::addresses::{local_addresses, may_have_addresses};
pub use self::answers::{
    ObjectEffect, created_ids, makes_though_not_stored, object_effect, upload_session,
};
pub use self::mentions::{RefKind, in_body, in_path};

#[cfg(test)]
mod tests;
