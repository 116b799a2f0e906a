//! Who calls, and what the caller may use: virtual keys where they are required, `Host` and `Origin` where they are not.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use keypool_core::limit::LimitId;
use keypool_core::pattern;
use keypool_providers::protocol;

use super::MatchedEndpoint;
use super::origin_check::{check_host, check_origin};
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::objects::Owner;
use crate::proxy::log::nobody;
use crate::settings::VirtualKeySettings;
use crate::snapshot::{PoolEntry, Snapshot};

/// The head of a request, and the address it came from.
#[derive(Clone, Copy)]
pub(crate) struct ClientRequest<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) peer: SocketAddr,
}

/// Who calls.
pub(crate) struct Caller {
    /// The virtual key's name, or `-`.
    pub(crate) name: Arc<str>,
    address: IpAddr,
    key: Option<Arc<VirtualKeySettings>>,
    /// The caller presented no key: it knows the address of an upload, which counts as a credential for that upload.
    by_upload: bool,
}

impl Caller {
    /// `in_body`: the credential in the body, if it may stand there and there is no other.
    pub(crate) fn authenticate(
        gw: &Gateway,
        snapshot: &Snapshot,
        endpoint: &MatchedEndpoint<'_>,
        request: ClientRequest<'_>,
        in_body: Option<String>,
    ) -> Result<Self, GatewayError> {
        let ClientRequest { parts, peer } = request;
        if !snapshot.needs_virtual_key() {
            check_host(&snapshot.settings.server, parts)?;
            check_origin(&snapshot.settings.server, parts)?;
            return Ok(Self {
                name: nobody(),
                address: peer.ip(),
                key: None,
                by_upload: false,
            });
        }
        let mut presented = protocol::presented(&parts.headers, parts.uri.query());
        presented.extend(in_body.map(Cow::Owned));
        let known = presented
            .iter()
            .find_map(|secret| snapshot.virtual_key(secret, || gw.clock.wall()));
        let by_upload = known.is_none();
        let key = match known {
            Some(key) => key,
            None if presented.is_empty() => upload_owner(gw, snapshot, endpoint)
                .ok_or_else(|| invalid_key("no virtual key was sent: put it where your SDK puts its API key (Authorization: Bearer, x-api-key, x-goog-api-key or ?key=)"))?,
            None => return Err(invalid_key("this virtual key is not known here: check it, or ask the operator of this gateway for one")),
        };
        check_valid(gw, key)?;
        Ok(Self {
            name: Arc::clone(&key.name),
            address: peer.ip(),
            key: Some(Arc::clone(key)),
            by_upload,
        })
    }

    /// Who submitted a job: the virtual key of this name, or who called from this address when none was required.
    pub(crate) fn of_job(
        gw: &Gateway,
        snapshot: &Snapshot,
        name: Option<&str>,
        address: IpAddr,
    ) -> Result<Self, GatewayError> {
        let key = match name {
            None => None,
            Some(name) => {
                let gone = || {
                    invalid_key(format!(
                        "the virtual key \"{name}\", which submitted this job, is gone"
                    ))
                };
                let key = snapshot.virtual_key_named(name).ok_or_else(gone)?;
                check_valid(gw, key)?;
                Some(Arc::clone(key))
            }
        };
        Ok(Self {
            name: key
                .as_ref()
                .map_or_else(nobody, |key| Arc::clone(&key.name)),
            address,
            key,
            by_upload: false,
        })
    }

    /// Whether announcements of its jobs' ends can be signed.
    pub(crate) fn has_webhook_secret(&self) -> bool {
        let key = self.key.as_ref();
        key.is_some_and(|key| key.webhook_secret.is_some())
    }

    /// Where the call came from.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Rejects unknown paths, and native paths that the caller may not use.
    pub(crate) fn check_access(&self, endpoint: &MatchedEndpoint<'_>) -> Result<(), GatewayError> {
        if !endpoint.is_native() {
            return Ok(());
        }
        if endpoint.known.is_none() && endpoint.pool.is_none() {
            let message = format!(
                "there is no {}: call an endpoint such as /v1/chat/completions, or /{{pool}}/… for a provider's own paths",
                printable(&endpoint.path)
            );
            return Err(GatewayError::new(Kind::NotFound, message));
        }
        if self.may_use_native_paths() {
            return Ok(());
        }
        if endpoint.known.is_some() {
            let message = format!(
                "{} lists what all callers created: ask for a virtual key with `native = true`",
                printable(&endpoint.path)
            );
            return Err(GatewayError::new(Kind::NativeNotAllowed, message));
        }
        let of_pool = endpoint
            .pool
            .map(|entry| format!(" of pool {}", entry.pool.name()));
        let message = format!(
            "{}{} is a native path: ask for a virtual key with `native = true`",
            printable(&endpoint.path),
            of_pool.unwrap_or_default()
        );
        Err(GatewayError::new(Kind::NativeNotAllowed, message))
    }

    /// The virtual key, if it has limits.
    pub(crate) fn limited_key(&self) -> Option<&Arc<VirtualKeySettings>> {
        self.key.as_ref().filter(|key| !key.limits.is_unlimited())
    }

    /// Names the caller for what is learned of its calls.
    pub(crate) fn limit_id(&self) -> LimitId {
        LimitId::of_virtual_key(&self.name)
    }

    /// Whose requests share a turn in a pool's queue: those of one virtual key, else of one address.
    pub(crate) fn fairness_key(&self) -> Arc<str> {
        match &self.key {
            Some(key) => Arc::clone(&key.name),
            None => self.address.to_string().into(),
        }
    }

    /// Who owns the objects that the caller creates.
    pub(crate) fn owner(&self) -> Owner {
        self.key.as_ref().map(|key| Arc::clone(&key.name))
    }

    pub(crate) fn may_use_native_paths(&self) -> bool {
        self.key.as_ref().is_none_or(|key| key.native)
    }

    /// Whether the caller may see why a key was selected: names and states of keys that it does not use. Callers with
    /// native paths may, since they deal with the keys' objects anyway, and everyone may if no key is required. A caller
    /// that only knows an upload's address may not.
    pub(crate) fn may_see_traces(&self) -> bool {
        !self.by_upload && self.may_use_native_paths()
    }

    pub(crate) fn may_use_pool(&self, entry: &PoolEntry) -> bool {
        let key = self.key.as_ref();
        key.is_none_or(|key| pattern::any_matches(&key.pools, entry.pool.name()))
    }

    pub(crate) fn may_use_model(&self, model: &str) -> bool {
        let key = self.key.as_ref();
        key.is_none_or(|key| pattern::any_matches(&key.models, model))
    }

    /// Whether the caller may use models whose names are not known here: all of them, or native paths, where models are
    /// not checked.
    pub(crate) fn may_use_unnamed_models(&self) -> bool {
        let allows_all =
            |key: &Arc<VirtualKeySettings>| key.models.iter().any(|model| model == "*");
        self.may_use_native_paths() || self.key.as_ref().is_none_or(allows_all)
    }

    /// The part of a model name or pattern that the caller may use. `None`: all of it.
    pub(crate) fn allowed_of(&self, models: &str) -> Option<Vec<String>> {
        // A pattern that matches another as text matches everything that the other one matches.
        let key = self.key.as_ref().filter(|_| !self.may_use_model(models))?;
        let narrower = key
            .models
            .iter()
            .filter(|allowed| pattern::matches(models, allowed));
        Some(narrower.cloned().collect())
    }
}

fn check_valid(gw: &Gateway, key: &VirtualKeySettings) -> Result<(), GatewayError> {
    let is_expired = key
        .expires
        .is_some_and(|expires| expires <= gw.clock.wall());
    let reason = match (key.disabled, is_expired) {
        (true, _) => "switched off",
        (false, true) => "expired",
        (false, false) => return Ok(()),
    };
    Err(invalid_key(format!(
        "the virtual key \"{}\" is {reason}: ask the operator of this gateway",
        key.name
    )))
}

fn invalid_key(message: impl Into<String>) -> GatewayError {
    GatewayError::new(Kind::InvalidVirtualKey, message)
}

/// The virtual key that began the upload which a request without a credential continues.
fn upload_owner<'a>(
    gw: &Gateway,
    snapshot: &'a Snapshot,
    endpoint: &MatchedEndpoint<'_>,
) -> Option<&'a Arc<VirtualKeySettings>> {
    let grant = endpoint.upload.as_ref()?.grant.as_ref()?;
    let owner = gw.objects.owner(grant)??;
    snapshot.virtual_key_named(&owner)
}

/// A path for a message, cut to a readable length.
fn printable(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(100).collect()
}
