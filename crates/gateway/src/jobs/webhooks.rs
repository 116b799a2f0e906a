//! The announcements of jobs' ends that this node delivers at the moment. A host that hangs must not hold up others.

use std::collections::HashMap;
use std::sync::Arc;

use keypool_core::store::WebhookResult;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::group::Groups;

/// Maximum number of announcements that a node delivers at the same time.
const MAX_IN_FLIGHT: usize = 32;
/// The same to one host.
const MAX_IN_FLIGHT_PER_HOST: usize = 4;

/// The announcements of this node.
pub(crate) struct Webhooks {
    /// One may be due, or there may be room for it.
    pub(crate) wake: Notify,
    pub(crate) results: Groups<WebhookResult, bool>,
    in_flight: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// An announcement in flight, until this is dropped.
pub(crate) struct InFlight {
    all: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    host: Arc<str>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            results: Groups::new(MAX_IN_FLIGHT, usize::MAX, |_| 0),
            in_flight: Arc::default(),
        }
    }
}

impl Webhooks {
    /// Whether one more may be in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.lock().values().sum::<usize>() < MAX_IN_FLIGHT
    }

    /// For how many announcements to each of these hosts there is room; the first ones get it.
    pub(crate) fn room(&self, hosts: Vec<Arc<str>>) -> Vec<(Arc<str>, usize)> {
        let in_flight = self.in_flight.lock();
        let mut left = MAX_IN_FLIGHT.saturating_sub(in_flight.values().sum());
        let room = hosts.into_iter().map(|host| {
            let of_host = in_flight.get(&host).copied().unwrap_or_default();
            let room = MAX_IN_FLIGHT_PER_HOST.saturating_sub(of_host).min(left);
            left -= room;
            (host, room)
        });
        room.filter(|(_, room)| *room > 0).collect()
    }

    /// Notes that an announcement to this host is in flight.
    pub(crate) fn begin(&self, host: &Arc<str>) -> InFlight {
        *self.in_flight.lock().entry(Arc::clone(host)).or_default() += 1;
        InFlight {
            all: Arc::clone(&self.in_flight),
            host: Arc::clone(host),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(number) = all.get_mut(&self.host) {
            *number -= 1;
            if *number == 0 {
                all.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_four_in_flight_and_all_hosts_together_32() {
        let webhooks = Webhooks::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let room = |hosts: &[&Arc<str>]| {
            let hosts = hosts.iter().map(|host| Arc::clone(host)).collect();
            let room = webhooks.room(hosts);
            room.into_iter().map(|(_, room)| room).collect::<Vec<_>>()
        };
        let mut held: Vec<_> = (0..3).map(|_| webhooks.begin(&one)).collect();
        assert_eq!(room(&[&one, &other]), [1, 4]);
        held.push(webhooks.begin(&one));
        assert_eq!(room(&[&one, &other]), [4]);
        for number in 0..26 {
            held.push(webhooks.begin(&number.to_string().into()));
        }
        assert!(webhooks.has_room());
        assert_eq!(room(&[&one, &other]), [2]);
        held.push(webhooks.begin(&other));
        held.push(webhooks.begin(&other));
        assert!(!webhooks.has_room() && room(&[&one, &other]).is_empty());
        held.clear();
        assert!(webhooks.in_flight.lock().is_empty());
    }
}
