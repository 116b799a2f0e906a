//! Pools, keys and virtual keys as the admin API and the store write them, and what they mean as settings.
//!
//! The fields have the names of the configuration file. This module must never know HTTP, SQL or a pool in use.

mod key;
mod pool;
mod text;
mod virtual_key;

pub(crate) use key::KeyFields;
pub(crate) use pool::PoolFields;
pub(crate) use virtual_key::VirtualKeyFields;

use std::net::SocketAddr;

use crate::proxy_environment::ProxyEnvironment;

/// What the meaning of a resource depends on beside its own fields.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// keypool's own address, which no base URL may lead to.
    pub(crate) listen: SocketAddr,
    /// The proxies that the environment names.
    pub(crate) proxies: &'a ProxyEnvironment,
}

/// Everything that is wrong with a resource, one sentence each. No sentence shows a secret.
pub(crate) type Mistakes = Vec<String>;
