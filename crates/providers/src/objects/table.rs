//! Where each protocol keeps objects, and where its responses say what was created. Data, and how to look it up.

use super::json::ANY;
use crate::protocol::Protocol;

/// The path of a field in a response.
pub(super) type Field = &'static [&'static str];

/// A kind of object.
pub(super) struct Collection {
    /// The segments of the path before an id.
    pub(super) at: &'static [&'static str],
    /// Where the response to the creating call has the id.
    pub(super) made: &'static [Field],
    /// Where the response to `GET` lists further objects that the provider created for this one.
    pub(super) shows: &'static [Field],
}

/// A protocol's table.
pub(super) struct Table {
    pub(super) collections: &'static [Collection],
    /// Words that may follow a collection and are not ids. These calls create objects too.
    pub(super) verbs: &'static [&'static str],
    /// Top-level fields of a request that name the object it is about. Deeper in a body they hold ids too.
    pub(super) required_fields: &'static [&'static str],
    /// Fields at any depth that hold ids, besides those whose name says so.
    pub(super) id_fields: &'static [&'static str],
}

const ID: &[Field] = &[&["id"]];
const NAME: &[Field] = &[&["name"]];

impl Collection {
    const fn new(at: &'static [&'static str], made: &'static [Field]) -> Self {
        Self {
            at,
            made,
            shows: &[],
        }
    }

    const fn shows(self, shows: &'static [Field]) -> Self {
        Self { shows, ..self }
    }
}

const OPENAI: Table = Table {
    collections: &[
        // The first is for the events of a stream.
        Collection::new(&["responses"], &[&["response", "id"], &["id"]]),
        Collection::new(&["files"], ID),
        Collection::new(&["batches"], ID).shows(&[&["output_file_id"], &["error_file_id"]]),
        // The second is for Mistral's responses and events.
        Collection::new(&["conversations"], &[&["id"], &["conversation_id"]]),
        Collection::new(&["uploads"], ID),
        Collection::new(&["vector_stores"], ID),
        Collection::new(&["containers"], ID),
        Collection::new(&["videos"], ID),
        Collection::new(&["fine_tuning", "jobs"], ID).shows(&[&["result_files", ANY]]),
        Collection::new(&["chat", "completions"], ID),
        Collection::new(&["contents", "generations", "tasks"], ID),
        Collection::new(&["context", "create"], ID),
        Collection::new(&["batch", "jobs"], ID).shows(&[&["output_file"], &["error_file"]]),
        Collection::new(&["video", "submit"], &[&["requestId"]]),
        Collection::new(&["assistants"], ID),
        Collection::new(&["threads"], ID),
        Collection::new(&["evals"], ID),
        Collection::new(&["skills"], ID),
    ],
    verbs: &[
        "input_tokens",
        "compact",
        "models",
        "runs",
        "edits",
        "extensions",
        "characters",
    ],
    required_fields: &[
        "previous_response_id",
        "conversation",
        "input_file_id",
        "context_id",
        "requestId",
        "training_file",
        "validation_file",
    ],
    id_fields: &[
        "container",
        // Moonshot's address of a file: `ms://{id}`.
        "url",
        // Mistral's lists of files.
        "input_files",
        "validation_files",
    ],
};

const ANTHROPIC: Table = Table {
    collections: &[
        Collection::new(&["messages", "batches"], ID),
        Collection::new(&["files"], ID),
        Collection::new(&["skills"], ID),
    ],
    verbs: &[],
    required_fields: &[],
    id_fields: &[],
};

const GEMINI: Table = Table {
    collections: &[
        Collection::new(&["files"], &[&["file", "name"]]),
        Collection::new(&["cachedContents"], NAME),
        // The response repeats the request in `metadata.inputConfig`, which is not read.
        Collection::new(&["batches"], NAME).shows(&[
            &["response", "responsesFile"],
            &["metadata", "output", "responsesFile"],
            &["output", "responsesFile"],
        ]),
        Collection::new(&["operations"], NAME).shows(&[&[
            "response",
            "generateVideoResponse",
            "generatedSamples",
            ANY,
            "video",
            "uri",
        ]]),
        Collection::new(&["interactions"], &[&["id"], &["interaction", "id"]]),
        Collection::new(&["tunedModels"], NAME),
        Collection::new(&["fileSearchStores"], NAME),
    ],
    verbs: &[],
    required_fields: &[
        "cachedContent",
        "cached_content",
        "previousInteractionId",
        "previous_interaction_id",
    ],
    id_fields: &[
        "fileName",
        "file_name",
        "fileSearchStoreNames",
        "file_search_store_names",
        // Tuned models.
        "model",
        "tunedModel",
        "tuned_model",
    ],
};

const TAVILY: Table = Table {
    collections: &[Collection::new(&["research"], &[&["request_id"]])],
    verbs: &[],
    required_fields: &[],
    id_fields: &[],
};

pub(super) fn table(protocol: Protocol) -> &'static Table {
    match protocol {
        Protocol::OpenAi => &OPENAI,
        Protocol::Anthropic => &ANTHROPIC,
        Protocol::Gemini => &GEMINI,
        Protocol::Tavily => &TAVILY,
    }
}

impl Table {
    /// The first collection among the segments, and what follows it.
    pub(super) fn find<'s>(
        &self,
        segments: &'s [String],
    ) -> Option<(&'static Collection, &'s [String])> {
        (0..segments.len()).find_map(|at| {
            let here = &segments[at..];
            let found = self.collections.iter().find(|collection| {
                let names = collection.at;
                names.len() <= here.len() && names.iter().zip(here).all(|(n, s)| n == s)
            })?;
            Some((found, &here[found.at.len()..]))
        })
    }

    /// Whether a segment of this name is a collection.
    pub(super) fn has(&self, name: &str) -> bool {
        self.collections
            .iter()
            .any(|collection| collection.at == [name])
    }
}
