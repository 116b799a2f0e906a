//! The names that providers give their errors, and the HTTP status of each.
//!
//! Must never know where a name was found, or what its status means for a key.

/// How a name is compared, in lower case and reduced to letters and digits.
#[derive(Clone, Copy)]
enum Like {
    Is(&'static str),
    Begins(&'static str),
    Has(&'static str),
}

use Like::{Begins, Has, Is};

/// Codes, types and gRPC names of all providers. The first match counts.
const WORDS: &[(Like, u16)] = &[
    // Content filters first: their codes also say `invalid` or `error`.
    (Has("sensitivecontent"), 400),
    (Has("riskdetection"), 400),
    (Has("contentfilter"), 400),
    (Has("contentpolicy"), 400),
    (Has("moderation"), 400),
    (Has("safety"), 400),
    // Credentials.
    (Has("invalidapikey"), 401),
    (Has("authentication"), 401),
    (Is("unauthenticated"), 401),
    (Is("unauthorized"), 401),
    (Is("invalidaccountstatus"), 401),
    // Balance, if it has a status of its own.
    (Begins("billingerror"), 402),
    (Begins("paymentrequired"), 402),
    (Begins("insufficientbalance"), 402),
    (Begins("linkedorganization"), 402),
    // Rights. Ark reports an overdue account among them.
    (Begins("permission"), 403),
    (Begins("accessdenied"), 403),
    (Begins("accountoverdue"), 403),
    (Begins("operationdenied"), 403),
    (Is("forbidden"), 403),
    (Begins("unsupportedcountry"), 403),
    // Limits and quotas.
    (Has("ratelimit"), 429),
    (Has("quota"), 429),
    (Has("spendlimit"), 429),
    (Has("usagelimit"), 429),
    (Has("setlimitexceeded"), 429),
    (Has("ramplimit"), 429),
    (Has("creditbalance"), 429),
    (Is("billingnotactive"), 429),
    (Is("resourceexhausted"), 429),
    (Begins("toomanyrequests"), 429),
    (Begins("inflight"), 429),
    // Overload: each provider has its own status for it.
    (Is("overloadederror"), 529),
    (Begins("serveroverloaded"), 429),
    (Begins("engineoverloaded"), 429),
    (Begins("requestbursttoofast"), 429),
    (Is("slowdown"), 429),
    (Has("overloaded"), 503),
    (Is("providerunavailable"), 502),
    (Has("unavailable"), 503),
    // Missing things.
    (Has("notfound"), 404),
    (Begins("modelnotopen"), 404),
    (Begins("invalidendpointormodel"), 404),
    (Begins("unsupportedmodel"), 404),
    // Time, size, state.
    (Is("requesttimeout"), 408),
    (Begins("timeout"), 504),
    (Is("deadlineexceeded"), 504),
    (Has("toolarge"), 413),
    (Begins("conflict"), 409),
    (Is("aborted"), 409),
    (Is("alreadyexists"), 409),
    // The request itself.
    (Begins("invalid"), 400),
    (Begins("missing"), 400),
    (Begins("unsupported"), 400),
    (Begins("badrequest"), 400),
    (Has("contextlength"), 400),
    (Is("failedprecondition"), 400),
    (Is("outofrange"), 400),
    (Is("unimplemented"), 501),
];

/// Sentences that are a whole error, reduced to letters and digits. In any other sentence a word proves nothing: it may
/// quote the caller.
const SENTENCES: &[(&str, u16)] = &[
    ("badrequest", 400),
    ("unauthorized", 401),
    ("invalidapikey", 401),
    ("paymentrequired", 402),
    ("insufficientbalance", 402),
    ("forbidden", 403),
    ("notfound", 404),
    ("requesttimeout", 408),
    ("toomanyrequests", 429),
    ("ratelimitexceeded", 429),
    ("ratelimitreached", 429),
    ("quotaexceeded", 429),
    ("internalservererror", 500),
    ("badgateway", 502),
    ("serviceunavailable", 503),
    ("gatewaytimeout", 504),
];

/// Maximum length of a name.
const LONGEST_WORD: usize = 96;

/// The status of an error, if the text is the number of one.
pub(super) fn stated_status(text: &str) -> Option<u16> {
    let status = text.parse().ok();
    status.filter(|status| (400..600).contains(status))
}

/// The status of a code, type or status name. A number given as text counts too.
pub(super) fn status_of_word(word: &str) -> Option<u16> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    if let Some(status) = stated_status(word) {
        return Some(status);
    }
    let is_name = word
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    let word: String = word
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if !is_name {
        let sentence = SENTENCES.iter().find(|(text, _)| word == *text);
        return sentence.map(|(_, status)| *status);
    }
    let fits = |like: &Like| match like {
        Is(text) => word == *text,
        Begins(text) => word.starts_with(text),
        Has(text) => word.contains(text),
    };
    WORDS
        .iter()
        .find(|(like, _)| fits(like))
        .map(|(_, status)| *status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_a_status_stand_for_it() {
        for (word, status) in [
            ("429", Some(429)),
            ("599", Some(599)),
            ("399", None),
            ("600", None),
            ("1300", None),
            ("new", None),
        ] {
            assert_eq!(status_of_word(word), status, "{word}");
        }
    }

    #[test]
    fn a_sentence_counts_as_a_whole_or_not_at_all() {
        for (sentence, status) in [
            ("Too Many Requests", Some(429)),
            ("Rate limit exceeded.", Some(429)),
            ("Service Unavailable!", Some(503)),
            ("Unexpected role \"authentication\"", None),
            ("role:'quota'", None),
            ("no rate limit here", None),
            ("\u{e9}quota", None),
        ] {
            assert_eq!(status_of_word(sentence), status, "{sentence}");
        }
    }

    #[test]
    fn spelling_does_not_matter_but_length_does() {
        for word in [
            "RateLimitExceeded",
            "rate_limit_exceeded",
            "RATE-LIMIT EXCEEDED",
        ] {
            assert_eq!(status_of_word(word), Some(429), "{word}");
        }
        assert_eq!(
            status_of_word(&format!("ratelimit{}", "x".repeat(LONGEST_WORD))),
            None
        );
    }
}
