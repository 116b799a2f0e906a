//! Fields that are written as text: durations, base URLs, proxies, labels.

use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::{ProxySetting, ProxyUrl};
use keypool_core::values;
use keypool_providers::base_path::{self, Mistake};
use keypool_providers::dialect::Dialect;

use super::{Mistakes, Surroundings};

/// Durations as `"30s"` in JSON.
pub(super) mod duration {
    use std::time::Duration;

    use keypool_core::values;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(values::duration_text).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        let read = |text: String| {
            let wrong = || {
                D::Error::custom(
                    "a duration is written like \"500ms\", \"30s\" or \"5m\", and is at most 365 days",
                )
            };
            values::duration(&text).ok_or_else(wrong)
        };
        text.map(read).transpose()
    }
}

/// Reads a base URL that does not lead to keypool itself.
pub(super) fn base_url(
    text: &str,
    dialect: &Dialect,
    around: Surroundings<'_>,
    mistakes: &mut Mistakes,
) -> Option<BaseUrl> {
    let url: BaseUrl = match text.parse() {
        Ok(url) => url,
        Err(error) => {
            mistakes.push(format!(
                "`base_url` is not a base URL: {error}; it looks like \"https://api.example.com/v1\""
            ));
            return None;
        }
    };
    if let Some(Mistake::Endpoint { correct }) = base_path::mistake(dialect, &url) {
        mistakes.push(format!(
            "`base_url` ends with an endpoint, which keypool adds itself: write \"{correct}\""
        ));
        return None;
    }
    if leads_here(&url, around) {
        mistakes.push(format!(
            "`base_url` is keypool's own address, {}: calls would loop",
            around.listen
        ));
        return None;
    }
    Some(url)
}

fn leads_here(url: &BaseUrl, around: Surroundings<'_>) -> bool {
    let default_port = if url.is_https() { 443 } else { 80 };
    values::host_port(url.authority()).is_some_and(|(host, port)| {
        values::is_listened_at(around.listen, host, port.unwrap_or(default_port))
    })
}

/// Reads `proxy`: a URL, or `none`.
pub(super) fn proxy(text: Option<&str>, mistakes: &mut Mistakes) -> ProxySetting {
    match text.map(str::trim) {
        None => ProxySetting::Unset,
        Some("none") => ProxySetting::Direct,
        Some(url) => match url.parse::<ProxyUrl>() {
            Ok(url) if url.has_credentials() => {
                mistakes.push("`proxy` must not contain a user or password here, because it is stored as it is: declare such a proxy in the configuration file or in the environment".to_owned());
                ProxySetting::Unset
            }
            Ok(url) => ProxySetting::Proxy(url),
            Err(error) => {
                mistakes.push(format!("`proxy` {error}"));
                ProxySetting::Unset
            }
        },
    }
}

/// Reports a label that is empty or has control characters.
pub(super) fn label(field: &str, text: Option<&str>, mistakes: &mut Mistakes) {
    if let Some(mistake) = text.and_then(values::label_mistake) {
        mistakes.push(format!("`{field}` {mistake}"));
    }
}

/// Reports a number outside its range.
pub(super) fn range<N: PartialOrd + std::fmt::Display>(
    field: &str,
    number: Option<N>,
    (least, most): (N, N),
    mistakes: &mut Mistakes,
) {
    if number.is_some_and(|number| number < least || number > most) {
        mistakes.push(format!("`{field}` must be from {least} to {most}"));
    }
}

/// Reports a limit of 0: unset means no limit.
pub(super) fn limit(field: &str, number: Option<u32>, mistakes: &mut Mistakes) {
    if number == Some(0) {
        mistakes.push(format!(
            "`{field}` must be at least 1; for no limit, leave it out"
        ));
    }
}

/// The end of a sentence that lists the known names.
pub(super) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("it must be one of {}", quoted.join(", "))
}
