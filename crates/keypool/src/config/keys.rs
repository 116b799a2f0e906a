//! The keys of one pool, in the short and in the long form.
//!
//! This module must never show a secret, not even in part: messages identify keys by name and location.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::{ProxySetting, ProxyUrl};
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::KeySettings;
use keypool_gateway::proxy_environment::ProxyEnvironment;
use keypool_providers::dialect::Dialect;
use toml::de::DeValue;

use super::base::{self, Base};
use super::display;
use super::limits;
use super::location::Location;
use super::problem::Problem;
use super::proxy;
use super::report::Report;
use super::secrets;
use super::text::Text;
use super::values;
use super::walk::{Node, Table};

/// What a key takes from its pool if it does not set it.
pub(super) struct Defaults<'p> {
    /// The pool's name.
    pub(super) pool: &'p str,
    /// The provider, if it is known.
    pub(super) dialect: Option<&'static Dialect>,
    /// The base URL.
    pub(super) base: &'p Base,
    /// Maximum number of concurrent calls per key.
    pub(super) max_concurrent: Option<u32>,
    /// keypool's own address, which no base URL may lead to.
    pub(super) listen: SocketAddr,
    /// The pool's proxy setting.
    pub(super) proxy: &'p ProxySetting,
    /// The proxies of the environment.
    pub(super) proxies: &'p ProxyEnvironment,
}

/// The keys that were read.
#[derive(Default)]
pub(super) struct Keys {
    /// The keys, in order.
    pub(super) keys: Vec<KeySettings>,
    /// Whether a key, or a pool without keys, has no base URL.
    pub(super) base_missing: bool,
}

/// Collects keys and finds duplicates.
struct Collector<'p> {
    defaults: &'p Defaults<'p>,
    out: Keys,
    names: HashSet<String>,
    secrets: HashMap<Digest256, String>,
}

/// Reads the field `keys` of a pool.
pub(super) fn read(table: &mut Table<'_>, defaults: &Defaults<'_>) -> Keys {
    let report = table.report();
    let mut collector = Collector {
        defaults,
        out: Keys::default(),
        names: HashSet::new(),
        secrets: HashMap::new(),
    };
    match table.take("keys") {
        Some(node) => collector.forms(&node, report),
        // Keys may be added later, and will use the pool's base URL.
        None => collector.out.base_missing = matches!(defaults.base, Base::Missing),
    }
    collector.out
}

/// The name of the key at `index`, if it is not given one.
pub(super) fn default_name(pool: &str, index: usize) -> String {
    format!("{pool}-{}", index + 1)
}

impl Collector<'_> {
    fn forms(&mut self, node: &Node<'_>, report: &Report<'_>) {
        const FORMS: &str = "a string with commas between keys, a list of strings, or `[[pools.<name>.keys]]` tables";
        match node.value() {
            DeValue::String(_) => {
                if let Some(text) = node.text(FORMS) {
                    for (index, key) in secrets::several(&text).iter().enumerate() {
                        self.short(index, key, secrets::read(key));
                    }
                }
            }
            DeValue::Array(items) => {
                let tables = items
                    .iter()
                    .filter(|item| item.get_ref().is_table())
                    .count();
                if tables > 0 && tables < items.len() {
                    let message = format!(
                        "`{}` has both strings and tables: write all keys of a pool in one form",
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
                        self.short(index, &text, secrets::single(&text));
                    }
                }
            }
            _ => node.must_be(FORMS),
        }
        self.out.base_missing |= self.out.keys.is_empty()
            && self.names.is_empty()
            && matches!(self.defaults.base, Base::Missing);
    }

    /// Adds a key that is given by its secret alone.
    fn short(&mut self, index: usize, text: &Text<'_>, secret: Option<Secret>) {
        let name = default_name(self.defaults.pool, index);
        self.claim(&name, &text.at, text.report());
        let secret = secret.and_then(|secret| self.unrepeated(secret, text, &name));
        let base = self.base(None);
        if let (Some(secret), Some(base_url)) = (secret, base) {
            self.out.keys.push(KeySettings {
                proxy: self.proxy(&ProxySetting::Unset, &base_url),
                max_concurrent: self.defaults.max_concurrent,
                ..KeySettings::new(name, secret, base_url)
            });
        }
    }

    /// Adds a key that is given by a `[[pools.<name>.keys]]` table.
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
            .and_then(|text| self.unrepeated(secrets::single(&text)?, &text, &name));
        let base = table.take("base_url");
        let base = self.base(base);
        let proxy = proxy::setting(&mut table);
        let mut label = |field| table.text(field).and_then(Text::label).map(Arc::from);
        let (model, group) = (label("model"), label("group"));
        let weight = table.whole("weight", 1..=100).unwrap_or(1u32);
        let max_concurrent = table
            .whole("max_concurrent", 1..=u32::MAX)
            .or(self.defaults.max_concurrent);
        let limits = limits::per_minute(&mut table);
        table.finish();
        if let (Some(secret), Some(base_url)) = (secret, base) {
            self.out.keys.push(KeySettings {
                proxy: self.proxy(&proxy, &base_url),
                model,
                group,
                weight,
                max_concurrent,
                limits,
                ..KeySettings::new(name, secret, base_url)
            });
        }
    }

    /// A key's base URL: its own, else the pool's.
    fn base(&mut self, own: Option<Node<'_>>) -> Option<BaseUrl> {
        match (own, self.defaults.base) {
            (Some(node), _) => {
                let Defaults {
                    dialect, listen, ..
                } = *self.defaults;
                base::read(&node.text("a string")?, dialect, listen)
            }
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

    /// Reports a name that another key of the pool has.
    fn claim(&mut self, name: &str, at: &Location, report: &Report<'_>) {
        if !self.names.insert(name.to_owned()) {
            let message = format!("the pool has two keys named {}", display::name(name));
            let hint =
                "names are unique in a pool; a key without a name is called \"<pool>-<position>\"";
            report.add(Problem::new(at, message).hint(hint));
        }
    }

    /// The secret, unless another key of the pool has it, which is reported.
    fn unrepeated(&mut self, secret: Secret, text: &Text<'_>, name: &str) -> Option<Secret> {
        if let Some(first) = self.secrets.get(&secret.digest()) {
            text.invalid(&format!(
                "repeats the secret of {} for {}",
                display::name(first),
                display::name(name)
            ));
            return None;
        }
        self.secrets.insert(secret.digest(), name.to_owned());
        Some(secret)
    }
}

/// Reads a key's name, in any script.
pub(super) fn checked_name(text: &Text<'_>) -> Option<String> {
    match values::name_mistake(&text.value) {
        Some(mistake) => {
            text.invalid(mistake);
            None
        }
        None => Some(text.value.clone()),
    }
}
