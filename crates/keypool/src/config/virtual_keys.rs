//! `[[virtual_keys]]`: the keys that clients present, stored as digests.
//!
//! This module must never show a secret or its digest.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use keypool_core::pattern;
use keypool_core::secret::Digest256;
use keypool_gateway::settings::VirtualKeySettings;
use keypool_gateway::webhook_secret::WebhookSecret;

use super::admin::client_secret;
use super::display;
use super::keys::checked_name;
use super::limits;
use super::location::Location;
use super::problem::Problem;
use super::routes;
use super::text::Text;
use super::walk::{Node, Table};

/// Reads all virtual keys. `pools` are the names that they may refer to.
pub(super) fn read(tables: Vec<Table<'_>>, pools: &[&str]) -> Vec<VirtualKeySettings> {
    let mut names = HashSet::new();
    let mut digests: HashMap<Digest256, String> = HashMap::new();
    let mut out = Vec::new();
    for mut table in tables {
        let report = table.report();
        let name = table
            .required("name")
            .and_then(|text| Some((checked_name(&text)?, text.at)));
        if let Some((name, at)) = &name
            && !names.insert(name.clone())
        {
            let message = format!("there are two virtual keys named {}", display::name(name));
            report.add(Problem::new(at, message));
        }
        let name = name.map(|(name, _)| name);
        let digest = digest(&mut table);
        if let Some((digest, at)) = &digest {
            let shown = name.clone().unwrap_or_default();
            if let Some(first) = digests.insert(*digest, shown) {
                let first = display::name(&first);
                let message = format!("this virtual key has the secret of {first}");
                report.add(Problem::new(at, message));
            }
        }
        table.warn_if_empty("models", "this virtual key may use no model");
        table.warn_if_empty("pools", "this virtual key may use no pool");
        let models = table.labels("models").unwrap_or_else(everything);
        let pools = pool_patterns(&mut table, pools);
        let limits = limits::of_caller(&mut table);
        let native = table.switch("native").unwrap_or_default();
        let expires = table.take("expires").and_then(|node| expires(&node));
        let disabled = table.switch("disabled").unwrap_or_default();
        let webhook_secret = table.text("webhook_secret");
        let webhook_secret = webhook_secret.and_then(|text| webhook_secret_of(&text));
        table.finish();
        if let (Some(name), Some((digest, _))) = (name, digest) {
            out.push(VirtualKeySettings {
                name: name.into(),
                digest,
                models,
                pools,
                native,
                expires,
                disabled,
                limits: limits.limits,
                output_reservation: limits.output_reservation,
                on_limit: limits.on_limit,
                limit_wait: limits.limit_wait,
                webhook_secret,
                source: report.file_name().into(),
            });
        }
    }
    out
}

/// The pattern of a virtual key that may use everything.
fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// The names and patterns of the pools that a virtual key may use. Names must be in `known`.
fn pool_patterns(table: &mut Table<'_>, known: &[&str]) -> Vec<String> {
    let Some(texts) = table.texts("pools") else {
        return everything();
    };
    texts
        .iter()
        .filter(|text| !pattern::is_pattern(&text.value))
        .for_each(|text| routes::known_pool(text, known));
    texts.into_iter().map(|text| text.value).collect()
}

/// The digest of `key`, or the one in `key_sha256`.
fn digest(table: &mut Table<'_>) -> Option<(Digest256, Location)> {
    const HINT: &str = "give `key`, or `key_sha256` with the 64 hexadecimal digits of its SHA-256";
    let report = table.report();
    match (table.take("key"), table.take("key_sha256")) {
        (None, None) => {
            let message = "the virtual key has neither `key` nor `key_sha256`";
            report.add(Problem::absent(table.at(), message).hint(HINT));
            None
        }
        (Some(_), Some(node)) => {
            let message = "the virtual key has both `key` and `key_sha256`";
            report.add(Problem::new(&node.at(), message).hint("keep one of the two"));
            None
        }
        (Some(node), None) => Some((client_secret(&node.text("a string")?)?.digest(), node.at())),
        (None, Some(node)) => {
            let text = node.text("a string")?;
            let digest = Digest256::from_hex(text.value.trim());
            if digest.is_none() {
                text.invalid("must be a SHA-256 in 64 hexadecimal digits");
            }
            Some((digest?, node.at()))
        }
    }
}

fn webhook_secret_of(text: &Text<'_>) -> Option<WebhookSecret> {
    let secret = WebhookSecret::parse(&text.value);
    secret.map_err(|mistake| text.invalid(mistake)).ok()
}

fn expires(node: &Node<'_>) -> Option<SystemTime> {
    const EXPECTED: &str = "a date and time with its offset, such as \"2027-01-31T00:00:00Z\"";
    let read = |text: &str| {
        text.trim()
            .parse::<jiff::Timestamp>()
            .ok()
            .map(SystemTime::from)
    };
    match node.date() {
        Some(date) => node.or_must_be(read(&date), EXPECTED),
        None => node.text(EXPECTED)?.read(EXPECTED, read),
    }
}
