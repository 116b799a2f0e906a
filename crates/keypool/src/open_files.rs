//! How many files this process may have open, and how many streams that is room for.
//!
//! Shells and service managers start programs with a low soft limit for the sake of old ones that use `select`; a
//! server raises it to the hard limit itself.

use rlimit::Resource;

/// Files that belong to no stream: the program's own, …
const OWN: u64 = 32;
/// … and for each thread a listener, an event queue and a connection that has just come.
const EACH_THREAD: u64 = 6;
/// A stream has a connection to its client and one to its provider.
const EACH_STREAM: u64 = 2;
/// However low the limit is, so many connections are taken.
const FEWEST: u64 = 16;
/// Where nobody can tell: the lowest that systems start programs with.
const UNKNOWN: u64 = 256;
/// Room for fewer streams than this is worth a warning.
const FEW: u64 = 1_000;

/// The limit in force, and what it is enough for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// Files that may be open at once.
    pub(crate) limit: u64,
    /// Streams that fit, each with a client and a provider.
    pub(crate) streams: u64,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one, for a server with so many threads. Where that is forbidden, the soft
    /// limit stays.
    pub(crate) fn raise(threads: usize) -> Self {
        let limit = rlimit::increase_nofile_limit(rlimit::INFINITY)
            .or_else(|_| Resource::NOFILE.get_soft())
            .unwrap_or(UNKNOWN);
        Self::of(limit, threads)
    }

    fn of(limit: u64, threads: usize) -> Self {
        let threads = u64::try_from(threads).unwrap_or(u64::MAX);
        let reserve = threads.saturating_mul(EACH_THREAD).saturating_add(OWN);
        let streams = (limit.saturating_sub(reserve) / EACH_STREAM).max(FEWEST);
        Self { limit, streams }
    }

    /// Says in the log how many streams fit.
    pub(crate) fn tell(self) {
        let Self { limit, streams } = self;
        if streams < FEW {
            tracing::warn!(
                open_files = limit,
                streams,
                "there is room for {streams} streams at once only: raise the hard limit of open files, {limit} now \
                 (`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
            );
        } else {
            tracing::info!(
                open_files = limit,
                streams,
                "there is room for {streams} streams at once"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_a_stream_fit_beside_what_the_program_needs() {
        for (limit, threads, streams) in [
            (1_024, 2, 490),
            (20_000, 2, 9_978),
            (20_000, 64, 9_792),
            // Limits that leave no room still serve somebody.
            (40, 2, 16),
            (0, 1, 16),
        ] {
            let found = OpenFiles::of(limit, threads);
            assert_eq!(found, OpenFiles { limit, streams }, "{threads} threads");
        }
        assert!(OpenFiles::of(u64::MAX, 2).streams > 1 << 60);
    }
}
