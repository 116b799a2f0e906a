//! How many prompts a call of `/v1/completions` has. Each of them gets outputs of its own.

use serde::de::IgnoredAny;

use crate::read::peek;

/// Number of prompts in the body of a call of `/v1/completions`, at least 1: a list of texts or of lists of token ids has
/// one in each element. A list of token ids is a single prompt.
pub fn prompts(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let prompt = peek::value_of(text, "prompt").unwrap_or_default();
    let inner = prompt.strip_prefix('[').map(str::trim_ascii_start);
    if !inner.is_some_and(|inner| inner.starts_with(['"', '['])) {
        return 1;
    }
    let elements: Result<Vec<IgnoredAny>, _> = serde_json::from_str(prompt);
    elements.map_or(1, |elements| elements.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_and_each_list_of_tokens_is_a_prompt() {
        for (prompt, expect) in [
            (r#""a""#, 1),
            (r#"["a"]"#, 1),
            (r#"[ "a", "b]", "c" ]"#, 3),
            ("[1, 2, 3]", 1),
            ("[ [1, 2], [3] ]", 2),
            ("[]", 1),
            ("null", 1),
            ("7", 1),
        ] {
            let body = format!(r#"{{"model":"m","prompt" : {prompt} ,"n":2}}"#);
            assert_eq!(prompts(body.as_bytes()), expect, "{prompt}");
        }
        assert_eq!(prompts(br#"{"messages":[{"prompt":["a","b"]}]}"#), 1);
        assert_eq!(prompts(b"no JSON"), 1);
    }
}
