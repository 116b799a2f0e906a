//! Whether a key serves one model or several, in one word.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::hash;

/// Whether a key has been used for one model only: the hash of that model, or a mark.
#[derive(Default)]
pub(crate) struct ModelsInUse(AtomicU64);

impl ModelsInUse {
    const NONE: u64 = 0;
    const SEVERAL: u64 = 1;

    pub(crate) fn note(&self, model: &str) {
        let known = self.0.load(Ordering::Relaxed);
        if known == Self::SEVERAL {
            return;
        }
        let digest = Self::digest(model);
        if known == digest {
            return;
        }
        let first =
            self.0
                .compare_exchange(Self::NONE, digest, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|other| other != digest) {
            self.0.store(Self::SEVERAL, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_only(&self, model: &str) -> bool {
        self.0.load(Ordering::Relaxed) == Self::digest(model)
    }

    /// Never one of the two marks.
    fn digest(model: &str) -> u64 {
        hash::bytes(0, model.as_bytes()).max(Self::SEVERAL + 1)
    }
}
