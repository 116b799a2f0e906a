//! The keys of one pool, in the short form and in the long one.
//!
//! This module must never show a secret, not even in part: messages name keys by name and place.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::ProxyUrl;
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::KeySettings;
use toml::de::DeValue;

use super::base::{self, Base};
use super::display;
use super::location::Location;
use super::not_implemented;
use super::problem::Problem;
use super::proxy::{self, ProxySetting};
use super::report::Report;
use super::text::Text;
use super::values;
use super::walk::{Node, Table};

/// What a pool gives to keys that say nothing themselves.
pub(super) struct Defaults<'p> {
    /// The pool's name.
    pub(super) pool: &'p str,
    /// Where calls go.
    pub(super) base: &'p Base,
    /// Most concurrent calls of a key.
    pub(super) max_concurrent: Option<u32>,
    /// keypool's own address, which no base URL may name.
    pub(super) listen: SocketAddr,
    /// What the pool says about a proxy.
    pub(super) proxy: &'p ProxySetting,
    /// What the environment says.
    pub(super) proxies: &'p proxy::Environment,
}

/// The keys read.
#[derive(Default)]
pub(super) struct Keys {
    /// In order.
    pub(super) keys: Vec<KeySettings>,
    /// A key, or the pool as such, does not know where its calls go.
    pub(super) base_missing: bool,
}

/// Gathers keys and finds those that stand twice.
struct Gatherer<'p> {
    defaults: &'p Defaults<'p>,
    out: Keys,
    names: HashSet<String>,
    secrets: HashMap<Digest256, String>,
}

/// Reads the field `keys` of a pool.
pub(super) fn read(table: &mut Table<'_>, defaults: &Defaults<'_>) -> Keys {
    let report = table.report();
    let mut gather = Gatherer {
        defaults,
        out: Keys::default(),
        names: HashSet::new(),
        secrets: HashMap::new(),
    };
    match table.take("keys") {
        Some(node) => gather.forms(&node, report),
        // A pool without keys waits for some, which will go to the pool's base URL.
        None => gather.out.base_missing = matches!(defaults.base, Base::Missing),
    }
    gather.out
}

/// The keys of one string: commas between them, blanks around them do not count.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// The name of the key at `index` that has none.
pub(super) fn default_name(pool: &str, index: usize) -> String {
    format!("{pool}-{}", index + 1)
}

impl Gatherer<'_> {
    fn forms(&mut self, node: &Node<'_>, report: &Report<'_>) {
        const FORMS: &str = "a string with commas between keys, a list of strings, or `[[pools.<name>.keys]]` tables";
        match node.value() {
            DeValue::String(_) => {
                if let Some(text) = node.text(FORMS) {
                    split(&text.value)
                        .enumerate()
                        .for_each(|(index, key)| self.short(index, &text.with(key)));
                }
            }
            DeValue::Array(items) => {
                let tables = items
                    .iter()
                    .filter(|item| item.get_ref().is_table())
                    .count();
                if tables > 0 && tables < items.len() {
                    let message = format!(
                        "`{}` holds both strings and tables: a pool takes its keys in one form",
                        node.path()
                    );
                    report.add(Problem::new(&node.at(), message));
                }
                for (index, item) in node
                    .items(FORMS)
                    .unwrap_or_default()
                    .into_iter()
                    .enumerate()
                {
                    if item.value().is_table() {
                        item.table()
                            .into_iter()
                            .for_each(|table| self.long(index, table));
                    } else if let Some(text) = item.text("a string") {
                        self.short(index, &text);
                    }
                }
            }
            _ => node.must_be(FORMS),
        }
        self.out.base_missing |= self.out.keys.is_empty()
            && self.names.is_empty()
            && matches!(self.defaults.base, Base::Missing);
    }

    /// A key of which only the secret is given.
    fn short(&mut self, index: usize, text: &Text<'_>) {
        let name = default_name(self.defaults.pool, index);
        self.claim(&name, &text.at, text.report());
        let secret = self.secret(text, &name);
        let base = self.base(None);
        if let (Some(secret), Some(base_url)) = (secret, base) {
            let max_concurrent = self.defaults.max_concurrent;
            let name = name.into();
            let proxy = self.proxy(&ProxySetting::Unset, &base_url);
            self.out.keys.push(KeySettings {
                name,
                secret,
                base_url,
                proxy,
                model: None,
                group: None,
                weight: 1,
                max_concurrent,
            });
        }
    }

    /// A `[[pools.<name>.keys]]` table.
    fn long(&mut self, index: usize, mut table: Table<'_>) {
        let report = table.report();
        let (name, at) = match table.text("name") {
            Some(text) => (checked_name(&text), text.at),
            None => (None, table.at().clone()),
        };
        let name = name.unwrap_or_else(|| default_name(self.defaults.pool, index));
        self.claim(&name, &at, report);
        let secret = table
            .required("key")
            .and_then(|text| self.secret(&text, &name));
        let base = table.take("base_url");
        let base = self.base(base);
        let proxy = proxy::setting(&mut table);
        let mut label = |field| table.text(field).and_then(Text::label).map(Arc::from);
        let (model, group) = (label("model"), label("group"));
        let weight = table.whole("weight", 1..=100).unwrap_or(1u32);
        let max_concurrent = table
            .whole("max_concurrent", 1..=u32::MAX)
            .or(self.defaults.max_concurrent);
        not_implemented::key_limits(&mut table);
        table.finish();
        if let (Some(secret), Some(base_url)) = (secret, base) {
            let proxy = self.proxy(&proxy, &base_url);
            self.out.keys.push(KeySettings {
                name: name.into(),
                secret,
                base_url,
                proxy,
                model,
                group,
                weight,
                max_concurrent,
            });
        }
    }

    /// A key's base URL: its own, else the pool's.
    fn base(&mut self, own: Option<Node<'_>>) -> Option<BaseUrl> {
        match (own, self.defaults.base) {
            (Some(node), _) => base::read(&node.text("a string")?, self.defaults.listen),
            (None, Base::Known(url)) => Some(url.clone()),
            (None, Base::Invalid) => None,
            (None, Base::Missing) => {
                self.out.base_missing = true;
                None
            }
        }
    }

    fn proxy(&self, own: &ProxySetting, base_url: &BaseUrl) -> Option<ProxyUrl> {
        let Defaults { proxy, proxies, .. } = self.defaults;
        proxies.resolve(own, proxy, base_url)
    }

    /// Takes a name, which may be taken once.
    fn claim(&mut self, name: &str, at: &Location, report: &Report<'_>) {
        if !self.names.insert(name.to_owned()) {
            let message = format!("the pool has two keys named {}", display::name(name));
            let hint =
                "names are unique in a pool; a key without one is called \"<pool>-<position>\"";
            report.add(Problem::new(at, message).hint(hint));
        }
    }

    /// A secret that can be sent and was not seen before in this pool.
    fn secret(&mut self, text: &Text<'_>, name: &str) -> Option<Secret> {
        let secret = provider_secret(text)?;
        if let Some(first) = self.secrets.get(&secret.digest()) {
            text.invalid(&format!(
                "holds the secret of {} a second time, for {}",
                display::name(first),
                display::name(name)
            ));
            return None;
        }
        self.secrets.insert(secret.digest(), name.to_owned());
        Some(secret)
    }
}

/// A provider's key as it can be sent.
pub(super) fn provider_secret(text: &Text<'_>) -> Option<Secret> {
    let secret = text.value.trim();
    if secret.is_empty() {
        text.invalid("must not be empty");
    } else if secret.contains(char::is_whitespace) {
        let message = format!(
            "`{}` holds a key with a blank or line break inside",
            text.name
        );
        let hint = "put commas between keys: \"key1, key2\"; where each key has a string of its own, one key in each";
        text.report()
            .add(Problem::new(&text.at, message).hint(hint));
    } else if !values::fits_header(secret) {
        text.invalid("holds a key with a character that cannot stand in an HTTP header, such as a letter outside ASCII");
    } else {
        return Some(Secret::new(secret));
    }
    None
}

/// A key's name: any script.
pub(super) fn checked_name(text: &Text<'_>) -> Option<String> {
    match values::name_mistake(&text.value) {
        Some(mistake) => {
            text.invalid(mistake);
            None
        }
        None => Some(text.value.clone()),
    }
}
