//! Tells pools of changes of a key, and those who wait that it may serve them.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Key;
use crate::availability::Availability;

impl Key {
    /// Reports changes of this key to `availability`, as those of the key at `index`, from now on.
    pub(crate) fn attach(&self, availability: &Arc<Availability>, index: usize) {
        let mut attached = self.attached.write();
        attached.retain(|(old, _)| old.strong_count() > 0);
        attached.push((Arc::downgrade(availability), index));
        drop(attached);
        self.update();
    }

    /// Reports nothing to `availability` any more.
    pub(crate) fn detach(&self, availability: &Arc<Availability>) {
        let mut attached = self.attached.write();
        attached.retain(|(old, _)| old.as_ptr() != Arc::as_ptr(availability));
    }

    fn attached(&self) -> Vec<Arc<Availability>> {
        self.attached
            .read()
            .iter()
            .filter_map(|(availability, _)| availability.upgrade())
            .collect()
    }

    /// Tells those who wait for this key that it may have room.
    pub(super) fn serve_later(&self) -> impl Fn() + Send + Sync + use<> {
        let attached: Vec<Weak<Availability>> = {
            let attached = self.attached.read();
            attached
                .iter()
                .map(|(availability, _)| Weak::clone(availability))
                .collect()
        };
        move || {
            for availability in attached.iter().filter_map(Weak::upgrade) {
                availability.notify_changed();
                availability.wait_signal().serve();
            }
        }
    }

    /// Offers what has become free to the requests that wait in any pool of this key.
    pub(crate) fn serve_waiting(&self) {
        // Collected first, because handing a lease over takes the same lock again.
        let with_waiting: Vec<Arc<Availability>> = {
            let attached = self.attached.read();
            let live = attached
                .iter()
                .filter_map(|(availability, _)| availability.upgrade());
            live.filter(|availability| availability.wait_signal().count() > 0)
                .collect()
        };
        for availability in with_waiting {
            availability.wait_signal().serve();
        }
    }

    /// Wakes requests that wait for a key: a cooldown started or was cleared.
    pub(crate) fn notify_changed(&self) {
        for availability in self.attached() {
            availability.notify_changed();
        }
    }

    pub(super) fn note_due(&self, due: Instant) {
        for availability in self.attached() {
            availability.note_due(due);
            availability.notify_changed();
        }
    }
}
