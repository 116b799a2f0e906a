//! The meaning of sentences, for every provider that has no rule of its own for them.
//!
//! Texts are in lower case and without quotations. What a caller wrote may still be in them, so a sentence that takes a
//! key out of use counts only from its beginning, and under a 400 or 404 only if it says nothing of a field.

use keypool_core::fault::{Class, Scope};

use super::error_body::ends_like_sentence;
use super::known_names::{Meaning, means};

/// The model does not do what the request asks for.
const UNFIT: &[&str] = &[
    "not allowed to generate embeddings",
    "does not support",
    "doesn't support",
    "not supported in the",
    "not supported with",
    "not a chat model",
    "only supported in",
];

/// The request itself is at fault.
const OF_REQUEST: &[&str] = &[
    "context length",
    "context window",
    "token limit",
    "number of tokens",
    "too many tokens",
    "is too long",
    "is too large",
    "failed to deserialize",
    "invalid json",
    "content filter",
    "content policy",
    "content management policy",
    "content exists risk",
    "safety system",
    "considered high risk",
];
/// Said of a model whose name the provider does not know.
const UNKNOWN: &[&str] = &[
    "not exist",
    "not found",
    "unknown model",
    "invalid model",
    "no such model",
    "unsupported model",
];

/// How a message about an empty account begins.
const EMPTY: &[&str] = &[
    "insufficient balance",
    "insufficient credit",
    "insufficient fund",
    "insufficient quota",
    "insufficient account balance",
    "not enough credit",
    "not enough balance",
    "your account balance",
    "sorry, your account balance",
    "your credit balance",
    "account balance",
    "you have run out of credit",
    "you have no credit",
    "out of credit",
    "no credits",
    "user quota is not enough",
    "token quota is not enough",
    "pre-consume token quota failed",
    "余额不足",
    "账户余额不足",
    "账号余额不足",
    "用户额度不足",
    "额度不足",
    "令牌额度",
    "该令牌额度",
    "账户已欠费",
    "预扣费额度失败",
];
/// Money in a sentence about an account that is closed.
const UNPAID: &[&str] = &[
    "balance", "billing", "payment", "overdue", "arrears", "credit", "unpaid", "欠费", "余额",
];

/// Words under a 401 or 403 about what a key or its account may use.
const RIGHTS: &[&str] = &[
    "permission",
    "scope",
    "region",
    "country",
    "territory",
    "location",
    "subscription",
    " plan",
    " tier",
    " role",
    "not have access",
    "no access",
    "not allowed to",
    "not authorized",
    "not permitted",
    "may not use",
    "restricted api key",
    "restricted key",
    "not entitled",
    "not enabled for",
    "not available",
    "not open",
    "not activated",
    "not include",
    "must be verified",
    "verification",
    "real-name",
    "allowlist",
    "allow list",
    "allow-list",
    "whitelist",
    "your ip",
    "ip address",
    "ip is not",
    "ip not",
    "data policy",
    "blocked at the organization",
    "blocked at the project",
    "无权",
    "权限",
    "地区",
    "实名",
];

/// What is said of a credential that the provider does not accept.
const BAD: &[&str] = &[
    "invalid",
    "incorrect",
    "expired",
    "revoked",
    "deleted",
    "disabled",
    "malformed",
    "leaked",
    "compromised",
    "deactivated",
    "wrong",
];
/// Number of words at the beginning of a message within which a credential is called bad.
const BEGINNING: usize = 8;

/// Who can be closed as a whole, and what is said of them.
const HOLDERS: &[&str] = &[
    "organization",
    "organisation",
    "account",
    "workspace",
    "project",
    "key",
    "token",
    "user",
    "team",
    "consumer",
];
const CLOSED: &[&str] = &[
    "disabled",
    "suspended",
    "deactivated",
    "banned",
    "terminated",
    "blocked",
    "revoked",
    "restricted",
    "closed",
    "deleted",
    "expired",
    "invalid",
    "not valid",
    "on hold",
    "frozen",
    "locked",
    "inactive",
    "no longer active",
    "cancelled",
    "canceled",
    "archived",
    "compromised",
    "reported as leaked",
    "reported as compromised",
    "denied access",
];

/// How a sentence about a model that is closed to an account begins. Others may begin with the caller's words.
const SUBJECTS: &[&str] = &[
    "the ",
    "this ",
    "your ",
    "you ",
    "project ",
    "organization ",
    "organisation ",
    "account ",
    "model ",
    "access to ",
    "user location",
    "#",
];
const NOT_FOR_YOU: &[&str] = &[
    "available for this",
    "available for your",
    "available for free",
    "available to this",
    "available to your",
    "available to new",
    "available to free",
    "available on your",
    "available on the free",
    "available to existing",
    "available in the free",
    "available for the free",
    "available on this",
    "available in your",
    "available with your",
    "available under your",
    "supported in your",
    "supported for your",
    "supported by your",
    "enabled for your",
    "enabled for this",
    "included in your",
];
const CLOSED_MODEL: &[&str] = &[
    "must be verified to",
    "does not have access to",
    "do not have access to",
    "doesn't have access to",
    "don't have access to",
    "not authorized to access",
    "not supported for the api use",
    "requires a paid plan",
    "plan does not include",
    "subscription does not include",
    "tier does not include",
    "requires a subscription",
];

/// The meaning of a message, if its words are known. `is_of_provider`: see there.
pub(super) fn meaning(status: u16, is_of_provider: bool, text: &str) -> Option<Meaning> {
    match status {
        401 => empty_account(text)
            .or_else(|| bad_credential(text))
            .or_else(|| missing_right(text))
            .or_else(|| unfit_request(text)),
        403 => empty_account(text)
            .or_else(|| bad_credential(text))
            .or_else(|| unfit_request(text))
            .or_else(|| missing_right(text)),
        402 | 429 => empty_account(text),
        400 | 404 if is_of_provider => closed_model(text).or_else(|| unfit_request(text)),
        400 | 404 => unfit_request(text),
        503 if text.contains("no available channel") || text.contains("无可用渠道") => {
            means(Class::CallerFault)
        }
        _ => None,
    }
}

pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '-' | '\''))
        .filter(|word| !word.is_empty())
}

/// Whether the message says that an account or a key is closed as a whole: `This organization has been disabled.`,
/// `Your API key was reported as leaked. …`
pub(super) fn closed_account(status: u16, is_of_provider: bool, text: &str) -> Option<Meaning> {
    let may_say_so = matches!(status, 401 | 403) || (matches!(status, 400 | 404) && is_of_provider);
    if !may_say_so {
        return None;
    }
    let text = text.trim_start();
    let text = text.strip_prefix("permission denied: ").unwrap_or(text);
    let end = text.find([',', '!', '.', ';']).unwrap_or(text.len());
    let sentence = &text[..end];
    let verb = [
        " has been ",
        " have been ",
        " was ",
        " is ",
        " is currently ",
    ]
    .iter()
    .filter_map(|verb| sentence.find(verb).map(|at| (at, verb.len())))
    .min()?;
    let (subject, state) = (&sentence[..verb.0], &sentence[verb.0 + verb.1..]);
    // An incomplete sentence may be a quotation of the caller that goes on with the provider's words.
    let is_complete = matches!(status, 401 | 403)
        || ends_like_sentence(text)
        || (end == text.len() && CLOSED.contains(&state));
    if !is_complete || !is_closed(state) || !is_holder(status, subject) {
        return None;
    }
    match UNPAID.iter().any(|word| sentence.contains(word)) {
        true => means(Class::Exhausted),
        false => means(Class::Rejected),
    }
}

fn is_closed(state: &str) -> bool {
    const NEXT: &[&str] = &[" due", " for ", " because", " by ", " and"];
    let rest = CLOSED.iter().find_map(|closed| state.strip_prefix(closed));
    rest.is_some_and(|rest| rest.is_empty() || NEXT.iter().any(|next| rest.starts_with(next)))
}

/// Under a 400 or 404, a key, a token or a user may be a part of the request.
fn is_holder(status: u16, subject: &str) -> bool {
    const OURS: &[&str] = &[
        "this",
        "your",
        "the",
        "api",
        "account",
        "organization",
        "organisation",
        "project",
        "consumer",
    ];
    let words: Vec<&str> = words(subject).collect();
    let is_part = words.iter().any(|word| {
        matches!(
            *word,
            "model" | "models" | "access" | "feature" | "endpoint"
        )
    });
    let is_holder = !is_part && words.len() <= 6 && words.iter().any(|word| HOLDERS.contains(word));
    let may_be_of_request = words
        .iter()
        .any(|word| matches!(*word, "key" | "token" | "user"));
    let is_ours = words.first().is_some_and(|word| OURS.contains(word))
        && (!may_be_of_request || words.contains(&"api"));
    is_holder && (matches!(status, 401 | 403) || is_ours)
}

/// `Insufficient balance.`, `Your workspace has reached its monthly spending limit of $20`
fn empty_account(text: &str) -> Option<Meaning> {
    let text = text.trim_start();
    let is_ours = text.starts_with("your ") || text.starts_with("you ");
    let is_spent = is_ours
        && text.contains("reached")
        && ["spending limit", "spend limit", "usage limit"]
            .iter()
            .any(|limit| text.contains(limit));
    let is_empty = is_spent || EMPTY.iter().any(|empty| text.starts_with(empty));
    is_empty.then_some((Class::Exhausted, Scope::Model))
}

/// `Incorrect API key provided: …`
fn bad_credential(text: &str) -> Option<Meaning> {
    let beginning: Vec<&str> = words(text).take(BEGINNING).collect();
    let is_key = |word: &&str| {
        matches!(
            *word,
            "key" | "apikey" | "x-api-key" | "api-key" | "token" | "credentials" | "credential"
        )
    };
    let is_bad = beginning.iter().any(|word| BAD.contains(word)) && beginning.iter().any(is_key);
    is_bad.then_some((Class::Rejected, Scope::Model))
}

fn missing_right(text: &str) -> Option<Meaning> {
    if text.contains("scope") || text.contains("insufficient permission") {
        return Some((Class::Forbidden, Scope::Endpoint));
    }
    let is_right = RIGHTS.iter().any(|right| text.contains(right));
    is_right.then_some((Class::Forbidden, Scope::Model))
}

/// `This model is no longer available to new users.`, `Your organization must be verified to …`
fn closed_model(text: &str) -> Option<Meaning> {
    let text = text.trim_start();
    let is_sentence = SUBJECTS.iter().any(|subject| text.starts_with(subject));
    // `The model does not exist or you do not have access to it` is mostly a wrong name.
    let is_vague = text.contains("not exist");
    let is_closed = CLOSED_MODEL
        .iter()
        .any(|words| ends_with_phrase(text, words));
    let is_negative = ["not ", "no longer ", "isn't ", "only "]
        .iter()
        .any(|word| text.contains(word));
    let is_for_others = is_negative
        && NOT_FOR_YOU
            .iter()
            .any(|words| ends_with_phrase(text, words));
    (is_sentence && !is_vague && (is_closed || is_for_others))
        .then_some((Class::Forbidden, Scope::Model))
}

/// Whether the text contains a phrase, and what follows is a complete sentence or only the phrase's own noun. Otherwise the
/// phrase may be a caller's.
fn ends_with_phrase(text: &str, phrase: &str) -> bool {
    text.split_once(phrase)
        .is_some_and(|(_, rest)| ends_like_sentence(rest) || words(rest).count() <= 2)
}

/// The model does not know what the request asks for, or the provider does not know the model.
fn unfit_request(text: &str) -> Option<Meaning> {
    const OTHERS: &[&str] = &[
        " plan",
        "subscription",
        " tier",
        "account",
        "organization",
        "project",
        "region",
        "country",
    ];
    let says = |all: &[&str]| all.iter().any(|words| text.contains(words));
    let is_unfit = says(OF_REQUEST)
        || (text.contains("model") && says(UNKNOWN))
        || (text.contains("model") && says(UNFIT) && !says(OTHERS));
    is_unfit.then_some((Class::CallerFault, Scope::Model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::error_body::is_of_provider;
    use crate::errors::named_objects::about_object;
    use crate::errors::quotes::without_quotations;

    fn class(status: u16, message: &str) -> Option<Class> {
        let text = without_quotations(message);
        let is_of_provider = is_of_provider(message);
        about_object(status, &text)
            .or_else(|| closed_account(status, is_of_provider, &text))
            .or_else(|| meaning(status, is_of_provider, &text))
            .map(|(class, _)| class)
    }

    fn assert_all(expect: Option<Class>, messages: &[(u16, &str)]) {
        for (status, message) in messages {
            assert_eq!(class(*status, message), expect, "{status} {message}");
        }
    }

    #[test]
    fn closed_accounts_and_dead_keys() {
        let closed = [
            (400, "This organization has been disabled."),
            (400, "Your account has been suspended due to abuse."),
            (400, "This organization has been disabled"),
            (403, "This workspace was deleted"),
            (404, "The project has been deactivated."),
            (400, "Your API key is invalid."),
            (
                403,
                "Your API key was reported as leaked. Please use another API key.",
            ),
            (
                403,
                "Permission denied: Consumer 'api_key:x' has been suspended.",
            ),
            (
                401,
                "Incorrect API key provided: sk-x. You can find it on your plan's page.",
            ),
            (403, "Invalid token."),
            (403, "API key has been compromised."),
            (403, "Your account has been frozen."),
            (400, "This organization is no longer active."),
        ];
        assert_all(Some(Class::Rejected), &closed);
        // These may be about the call, so a call that costs nothing decides for a key that has served.
        let unclear = [
            (401, "No auth credentials found"),
            (
                401,
                "You must be a member of an organization to use the API.",
            ),
            (401, "Login required for model gpt-x"),
            (401, "User is unknown here"),
        ];
        assert_all(None, &unclear);
        let unpaid = [
            (403, "Your account is suspended due to an overdue payment."),
            (401, "Insufficient balance. Manage your billing here."),
            (429, "余额不足，请充值"),
            (
                401,
                "Your workspace has reached its monthly spending limit of $20.",
            ),
        ];
        assert_all(Some(Class::Exhausted), &unpaid);
    }

    #[test]
    fn models_and_endpoints_that_a_key_may_not_use() {
        let closed = [
            (
                401,
                "You have insufficient permissions for this operation. Missing scopes: model.request.",
            ),
            (403, "Your API key lacks permission."),
            (401, "This API key is not permitted to call this endpoint."),
            (401, "Your key is not authorized for this operation"),
            (401, "This key may not use this endpoint"),
            (403, "IP address 203.0.113.7 is not on the allowlist."),
            (401, "Your IP is not authorized."),
            (
                400,
                "The long context beta is not yet available for this subscription",
            ),
            (
                404,
                "This model models/x is no longer available to new users. Please use a newer one.",
            ),
            (
                400,
                "Your organization must be verified to stream this model. Go to: https://a.example/x",
            ),
            (404, "Project `p` does not have access to model `m`"),
            (400, "The model `m` is not available on the free tier."),
            (400, "Your plan does not include this model."),
            (400, "User location is not supported for the API use."),
            (403, "This model requires real-name verification."),
        ];
        assert_all(Some(Class::Forbidden), &closed);
    }

    #[test]
    fn requests_and_objects_that_are_at_fault_themselves() {
        let faults = [
            (
                403,
                "You do not have permission to access the File x or it may not exist.",
            ),
            (403, "CachedContent not found (or permission denied)"),
            (403, "You do not have permission to access the Batch x."),
            (
                403,
                "You do not have permission to access tuned model tunedModels/x.",
            ),
            (404, "No such File object: file-abc"),
            (400, "Previous response with id 'resp_x' not found."),
            (
                403,
                "You are not allowed to generate embeddings from this model",
            ),
            (
                404,
                "The model `x` does not exist or you do not have access to it.",
            ),
            (400, "This model's maximum context length is 8192 tokens."),
            (503, "No available channel for model x under group default"),
        ];
        assert_all(Some(Class::CallerFault), &faults);
    }

    #[test]
    fn other_sentences_mean_nothing() {
        let others = [
            (401, "Unauthorized"),
            (401, "Request refused."),
            (403, "Forbidden"),
            (403, "Request not allowed"),
            (403, "The model is disabled."),
            (403, "Access to project models is restricted."),
            (400, "The key is invalid."),
            (400, "The token has expired."),
            (
                400,
                "This organization has been disabled.: Extra inputs are not permitted",
            ),
            (400, "This organization has been disabled. is no role"),
            (400, "This account is suspended due to abuse is no role"),
            (
                400,
                "Role 'This organization has been disabled.' is unknown",
            ),
            (
                400,
                "Unknown role: this plan is not available for your subscription.",
            ),
            (500, "This organization has been disabled."),
            (429, "Rate limit reached for this organization."),
            (400, ""),
        ];
        assert_all(None, &others);
    }
}
