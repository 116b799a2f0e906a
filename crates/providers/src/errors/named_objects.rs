//! Refusals about an object that the request names: one that is gone, or that belongs to another account.
//!
//! Texts are in lower case and without quotations.

use keypool_core::fault::{Class, Scope};

use super::known_names::Meaning;
use super::known_words::words;

/// Objects that a request names and that belong to one account.
const OBJECTS: &[&str] = &[
    "file",
    "files",
    "cachedcontent",
    "cachedcontents",
    "cached",
    "batch",
    "operation",
    "response",
    "container",
    "thread",
    "assistant",
    "skill",
    "conversation",
    "video",
    "upload",
    "vector",
    "document",
    "corpus",
    "corpora",
    "resource",
    "filesearchstore",
    "store",
    "task",
    "job",
    "interaction",
    "tunedmodel",
    "tuned",
    "image",
];
/// What is said of an object that is gone or that belongs to somebody else.
const GONE: &[&str] = &[
    "may not exist",
    "not found",
    "no such",
    "does not exist",
    "doesn't exist",
    "do not exist",
    "has expired",
    "is expired",
    "been deleted",
    "belongs to a",
    "not in an active state",
];
/// What follows the name of an endpoint and not that of an object.
const NOT_OBJECTS: &[&str] = &[
    "api",
    "apis",
    "endpoint",
    "endpoints",
    "feature",
    "service",
    "tool",
    "search",
    "inputs",
];

/// Whether the message is about an object that the request names.
pub(super) fn about_object(status: u16, text: &str) -> Option<Meaning> {
    if !matches!(status, 400 | 401 | 403 | 404) {
        return None;
    }
    let all: Vec<&str> = words(text).collect();
    let is_object = |word: &&str| OBJECTS.contains(word);
    let is_gone =
        status != 401 && all.iter().any(is_object) && GONE.iter().any(|gone| text.contains(gone));
    let is_foreign = || {
        let mut leads = [
            "permission to access ",
            "have access to ",
            "authorized to access ",
            "permission denied on ",
        ]
        .iter();
        let (_, object) = leads.find_map(|lead| text.split_once(lead))?;
        let mut object = words(object).skip_while(|word| matches!(*word, "the" | "this" | "that"));
        let is_object = is_object(&object.next()?);
        let goes_on = object
            .next()
            .is_some_and(|word| NOT_OBJECTS.contains(&word));
        Some(is_object && !goes_on)
    };
    (is_gone || is_foreign() == Some(true)).then_some((Class::CallerFault, Scope::Model))
}
