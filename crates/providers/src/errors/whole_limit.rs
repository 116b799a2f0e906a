//! Requests that are larger than the whole limit, so that waiting never helps. Providers call them rate-limited.
//!
//! Must never know a provider.

/// `Request too large … Limit 10000, Requested 12000`.
pub(super) fn exceeds_whole_limit(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    let figures = number_after(&lower, "limit ").zip(number_after(&lower, "requested "));
    lower.starts_with("request too large")
        || figures.is_some_and(|(limit, requested)| requested > limit)
}

/// The number after the last `word` that is followed by one. Commas between digits and a `~` for an estimate are skipped.
/// The last one counts because the model's name, which the caller chose, comes before the figures.
fn number_after(text: &str, word: &str) -> Option<u64> {
    text.rmatch_indices(word).find_map(|(at, _)| {
        let figure = text[at + word.len()..].trim_start_matches('~');
        let digits = figure
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == ',');
        digits
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_above_the_limit_differs_from_a_full_window() {
        for (message, expect) in [
            (
                "Request too large for gpt-x on tokens per min (TPM): Limit 10000, Requested 12000.",
                true,
            ),
            (
                "Rate limit reached on TPM: Limit 30,000, Used 0, Requested 31,000. Try again in 2s.",
                true,
            ),
            (
                "Rate limit reached on TPM: Limit 7000, Used 0, Requested ~12903. Try again in 50s.",
                true,
            ),
            (
                "Rate limit reached on RPM: Limit 3, Used 3, Requested 1. Please try again in 20s.",
                false,
            ),
            (
                "Rate limit reached for `request too large, limit 1, requested 2` on RPM: Limit 3, Used 3, Requested 1.",
                false,
            ),
            ("Limit 0 or so", false),
            ("", false),
        ] {
            assert_eq!(exceeds_whole_limit(message), expect, "{message}");
        }
    }
}
