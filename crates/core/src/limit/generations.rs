//! A map that remembers a bounded number of entries: those that were used last.

use std::collections::HashMap;
use std::mem;

use super::limiter::IdHasher;

/// Two maps. Entries that are used move to the younger one; once that is full, the older one is dropped.
#[derive(Debug)]
pub(super) struct Generations<V> {
    young: HashMap<u64, V, IdHasher>,
    old: HashMap<u64, V, IdHasher>,
}

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
        }
    }
}

impl<V: Default> Generations<V> {
    /// The entry of that name, if it is remembered.
    pub(super) fn get(&self, name: u64) -> Option<&V> {
        self.young.get(&name).or_else(|| self.old.get(&name))
    }

    /// The entry of that name, created if need be. `max`: the number of entries that are remembered at least.
    pub(super) fn entry(&mut self, name: u64, max: usize) -> &mut V {
        if self.young.len() >= max && !self.young.contains_key(&name) {
            self.old = mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young
            .entry(name)
            .or_insert_with(|| old.remove(&name).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_used_last_are_remembered() {
        let mut map = Generations::<u32>::default();
        for name in 0..1000 {
            *map.entry(name, 10) += 1;
            *map.entry(7, 10) += 1;
            assert!(map.young.len() + map.old.len() <= 20);
        }
        assert_eq!(map.get(7), Some(&1001));
        assert_eq!(map.get(999), Some(&1));
        assert_eq!(map.get(5), None);
    }
}
