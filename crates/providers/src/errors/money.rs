//! Recognizes refusals that compare the price of a request with what the key has left.
//!
//! Must never look at anything that the request can choose: quotations are already left out.

use keypool_core::fault::Class;

use super::error_body::ErrorBody;
use super::known_names;

/// Words beside what is left. English ones are the beginnings of words.
const LEFT: &[&str] = &[
    "afford",
    "remain",
    "left",
    "available",
    "balance",
    "user quota",
    "you have",
    "only have",
    "has only",
    "you only",
    "剩余",
    "余额",
    "可用",
    "当前额度",
];
/// Words beside what the request costs.
const NEEDED: &[&str] = &[
    "need",
    "requir",
    "request",
    "cost",
    "estimated",
    "price",
    "需要",
    "所需",
    "预扣",
    "预估",
];
/// Where a clause ends.
const CLAUSES: &[&str] = &[
    ", ", "; ", ". ", "! ", "\n", " but ", " and ", " while ", "(", ")", "，", "；", "。", "（",
    "）", "、", "但",
];
/// What a clause says that ends a message with an id.
const ID_CLAUSES: &[&str] = &[
    "request id",
    "request_id",
    "requestid",
    "trace id",
    "traceid",
];
/// Comparisons without figures.
const WITHOUT_FIGURES: &[&str] = &[
    "exceeds your available",
    "exceeds your remaining",
    "exceeds the remaining",
    "exceeds the available",
    "exceeds your balance",
    "exceeds your current balance",
];

/// Too expensive if the key has something left but less than the request needs; exhausted if it has nothing left.
///
/// Only under a status or a name about money or rights: a rate limit compares too.
pub(super) fn comparison(status: u16, body: &ErrorBody, text: &str) -> Option<Class> {
    let is_budget = body.names().any(|name| name == "weight_exceeds_budget");
    let is_about_money = is_budget || body.names().any(known_names::is_money);
    if !is_about_money && !matches!(status, 401..=403) {
        return None;
    }
    let Figures { left, needed } = figures(text);
    let says_afford = text.contains("afford ");
    match left {
        Some(left) if needed.is_some() || says_afford => Some(match left > 0.0 {
            true => Class::TooExpensive,
            false => Class::Exhausted,
        }),
        _ if is_budget || WITHOUT_FIGURES.iter().any(|words| text.contains(words)) => {
            Some(Class::TooExpensive)
        }
        _ => None,
    }
}

#[derive(Default)]
struct Figures {
    left: Option<f64>,
    needed: Option<f64>,
}

fn figures(text: &str) -> Figures {
    let mut found = Figures::default();
    let mut rest = text;
    while !rest.is_empty() {
        let ends = CLAUSES
            .iter()
            .filter_map(|end| Some((rest.find(end)?, end.len())));
        let (end, len) = ends.min().unwrap_or((rest.len(), 0));
        // The number of a request is no price.
        if !ID_CLAUSES.iter().any(|words| rest[..end].contains(words)) {
            read_clause(&rest[..end], &mut found);
        }
        rest = &rest[end + len..];
    }
    found
}

/// `… limit exceeded: 12000 > 8000`, or one figure for each kind of word.
fn read_clause(clause: &str, found: &mut Figures) {
    let exceeded = clause
        .split_once("exceeded")
        .and_then(|(_, rest)| rest.split_once('>'));
    if let Some((needed, left)) = exceeded {
        found.needed = found
            .needed
            .or(first_number(needed).map(|(_, number)| number));
        found.left = found.left.or(first_number(left).map(|(_, number)| number));
        return;
    }
    let left_at = first_of(clause, LEFT);
    let needed_at = first_of(clause, NEEDED);
    let after = |at: usize| first_number(&clause[at..]).map(|(from, number)| (at + from, number));
    let any = || first_number(clause);
    let (left, needed) = match (left_at, needed_at) {
        (Some(left), Some(needed)) => match (after(left), after(needed)) {
            // The only figure belongs to the word next to it.
            (Some(one), Some(other)) if one.0 == other.0 && left < needed => (None, Some(other)),
            (Some(one), Some(other)) if one.0 == other.0 => (Some(one), None),
            both => both,
        },
        (Some(left), None) => (after(left).or_else(any), None),
        (None, Some(needed)) => (None, after(needed).or_else(any)),
        (None, None) => (None, None),
    };
    found.left = found.left.or(left.map(|(_, number)| number));
    found.needed = found.needed.or(needed.map(|(_, number)| number));
}

fn first_of(clause: &str, words: &[&str]) -> Option<usize> {
    words.iter().filter_map(|word| clause.find(word)).min()
}

/// The first number, with its place. A minus may stand before or after the sign of a currency.
fn first_number(text: &str) -> Option<(usize, f64)> {
    let at = text.find(|c: char| c.is_ascii_digit())?;
    let end = text[at..]
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ','))
        .map_or(text.len(), |len| at + len);
    let digits = text[at..end].trim_end_matches(['.', ',']).replace(',', "");
    let number: f64 = digits.parse().ok()?;
    let before = text[..at].trim_end_matches(['$', '＄', '¥', '￥', '€', ' ', '.']);
    Some((
        at,
        if before.ends_with(['-', '−']) {
            -number
        } else {
            number
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::quotes::without_quotations;

    fn compared(status: u16, code: &str, message: &str) -> Option<Class> {
        let body = serde_json::json!({"error": {"code": code, "message": message}});
        let body = ErrorBody::read(body.to_string().as_bytes());
        comparison(status, &body, &without_quotations(message))
    }

    #[test]
    fn a_request_above_what_is_left_is_too_expensive() {
        for message in [
            "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 950.",
            "Prompt tokens limit exceeded: 12000 > 8000. To increase, visit https://openrouter.ai/settings/keys",
            "pre-consume token quota failed, user quota: ＄0.012, need quota: ＄0.03",
            "预扣费额度失败, 用户剩余额度: ＄0.112160, 需要预扣费额度: ＄0.336000",
            "预扣费额度失败，剩余额度：0.5，需要预扣费额度：1.25",
            "token quota is not enough, token remain quota: $0.10, need quota: $0.3",
            "Insufficient credits: remaining 950, needed 2,000",
            "余额不足：当前余额 3.2 元，本次请求需要 10 元",
            "Your balance of $1.50 is below the required $5",
            "This request requires 100 credits but you only have 20 left",
            "You have 20 credits left and this request costs 25",
            "This request's maximum cost exceeds your available credits.",
        ] {
            assert_eq!(
                compared(402, "c", message),
                Some(Class::TooExpensive),
                "{message}"
            );
            assert_eq!(
                compared(403, "insufficient_user_quota", message),
                Some(Class::TooExpensive)
            );
            assert_eq!(compared(400, "c", message), None, "{message}");
            assert_eq!(
                compared(429, "rate_limit_exceeded", message),
                None,
                "{message}"
            );
        }
        assert_eq!(
            compared(429, "weight_exceeds_budget", "No."),
            Some(Class::TooExpensive)
        );
    }

    #[test]
    fn a_key_with_nothing_left_is_exhausted() {
        for message in [
            "This request requires more credits. You requested up to 65536 tokens, but can only afford 0.",
            "预扣费额度失败, 用户剩余额度: ＄-0.01, 需要预扣费额度: ＄0.336000",
            "remaining -$3, needed $1",
            "Insufficient credits: 0 remaining, 5 needed",
        ] {
            assert_eq!(
                compared(402, "c", message),
                Some(Class::Exhausted),
                "{message}"
            );
        }
    }

    #[test]
    fn a_refusal_without_a_comparison_is_left_to_other_rules() {
        for message in [
            "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
            "Your account has a negative balance.",
            "用户额度不足, 剩余额度: ＄0.5",
            "Unknown role 'remaining 5, needed 9'",
            "You have insufficient permissions for this operation. Missing scopes: model.request.",
            "",
        ] {
            assert_eq!(
                compared(403, "insufficient_user_quota", message),
                None,
                "{message}"
            );
        }
    }
}
