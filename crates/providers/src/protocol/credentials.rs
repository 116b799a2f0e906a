//! Where callers put their credential: the places of every protocol, since SDKs and versions differ.
//!
//! Must never know which credentials are good, and must never log one.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

static KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("api-key"),
];

/// Every credential that is presented and not empty: bearer tokens, key headers, then `key` parameters, decoded.
pub fn presented<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Vec<Cow<'a, str>> {
    let bearers = values(headers, &AUTHORIZATION).filter_map(bearer_token);
    let named = KEY_HEADERS.iter().flat_map(|name| values(headers, name));
    let keys = query
        .into_iter()
        .flat_map(parameters)
        .filter(|(name, _)| is_key(name));
    // A plus stays a plus: keys have no blanks, and people who write a URL by hand do not encode it.
    let decoded = keys.filter_map(|(_, value)| percent_decode_str(value).decode_utf8().ok());
    bearers
        .chain(named)
        .map(Cow::Borrowed)
        .chain(decoded)
        .filter(|value| !value.is_empty())
        .collect()
}

/// The query without its `key` parameters, however their name is encoded; every other byte stays. May be empty.
pub fn without_key(query: &str) -> Cow<'_, str> {
    if !has_key(query) {
        return Cow::Borrowed(query);
    }
    let kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| !is_key(split(parameter).0))
        .collect();
    Cow::Owned(kept.join("&"))
}

/// Whether the query has a `key` parameter.
pub(super) fn has_key(query: &str) -> bool {
    parameters(query).any(|(name, _)| is_key(name))
}

fn values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .map(str::trim)
}

fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once([' ', '\t'])?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(split)
}

fn split(parameter: &str) -> (&str, &str) {
    parameter.split_once('=').unwrap_or((parameter, ""))
}

fn is_key(name: &str) -> bool {
    percent_decode_str(name).eq(b"key".iter().copied())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn every_place_is_read() {
        let all = [
            ("authorization", "Bearer one"),
            ("x-api-key", "two"),
            ("x-goog-api-key", " three "),
            ("api-key", "four"),
        ];
        assert_eq!(
            presented(&headers(&all), Some("a=b&key=five%2B%2f+&%6Bey=six&key=")),
            ["one", "two", "three", "four", "five+/+", "six"]
        );
        assert!(presented(&HeaderMap::new(), None).is_empty());
        let mut twice = headers(&[("x-api-key", "first")]);
        twice.append("x-api-key", HeaderValue::from_static("second"));
        assert_eq!(presented(&twice, None), ["first", "second"]);
    }

    #[test]
    fn only_bearer_schemes_carry_a_key() {
        for value in ["bearer k", "BEARER   k ", "Bearer\tk"] {
            assert_eq!(
                presented(&headers(&[("authorization", value)]), None),
                ["k"],
                "{value}"
            );
        }
        for value in ["Basic k", "k", "Bearer", "Bearer ", "Bearerk", ""] {
            assert!(
                presented(&headers(&[("authorization", value)]), None).is_empty(),
                "{value}"
            );
        }
        assert_eq!(
            presented(&headers(&[("x-api-key", "schlüssel")]), None),
            ["schlüssel"]
        );
        assert!(
            presented(
                &HeaderMap::new(),
                Some("key=%ff&monkey=a&Key=b&k%65y%00=c&a=key=d")
            )
            .is_empty()
        );
    }

    #[test]
    fn nothing_but_the_key_leaves_the_query() {
        for (query, left) in [
            ("key=x", ""),
            ("key", ""),
            ("alt=sse&key=x", "alt=sse"),
            ("key=x&alt=sse", "alt=sse"),
            ("a=%41+b&key=x&c=&key=y&&d", "a=%41+b&c=&&d"),
            ("%6bey=x&a=1", "a=1"),
            ("%6B%65%79=x", ""),
            ("monkey=x&keys=y&a=key", "monkey=x&keys=y&a=key"),
            ("", ""),
        ] {
            assert_eq!(without_key(query), left, "{query}");
        }
        assert!(matches!(without_key("alt=sse"), Cow::Borrowed(_)));
    }
}
