//! The limit of open files, and how many concurrent streams it allows.
//!
//! Shells and service managers start programs with a low soft limit, for old programs that use `select`. A server
//! raises it to the hard limit itself.

use rlimit::Resource;

/// Files of the process itself that belong to no stream.
const PROCESS_FILES: u64 = 32;
/// Files per thread: a listener, an event queue, a connection just accepted.
const FILES_PER_THREAD: u64 = 6;
/// Files per stream: a connection to the client and one to the provider.
const FILES_PER_STREAM: u64 = 2;
/// Streams that are always accepted, however low the limit is.
const MIN_STREAMS: u64 = 16;
/// Assumed if the limit cannot be read: the lowest default of common systems.
const FALLBACK_LIMIT: u64 = 256;
/// With capacity for fewer streams than this, a warning is logged.
const WARN_BELOW: u64 = 1_000;

/// The current limit, and the capacity that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// Maximum number of open files.
    pub(crate) limit: u64,
    /// Maximum number of concurrent streams, each with a client and a provider connection.
    pub(crate) streams: u64,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one, for a server with this number of threads. If that is forbidden, the soft
    /// limit stays.
    pub(crate) fn raise(threads: usize) -> Self {
        let limit = rlimit::increase_nofile_limit(rlimit::INFINITY)
            .or_else(|_| Resource::NOFILE.get_soft())
            .unwrap_or(FALLBACK_LIMIT);
        Self::new(limit, threads)
    }

    fn new(limit: u64, threads: usize) -> Self {
        let threads = u64::try_from(threads).unwrap_or(u64::MAX);
        let reserve = threads
            .saturating_mul(FILES_PER_THREAD)
            .saturating_add(PROCESS_FILES);
        let streams = (limit.saturating_sub(reserve) / FILES_PER_STREAM).max(MIN_STREAMS);
        Self { limit, streams }
    }

    /// Logs how many streams fit.
    pub(crate) fn log(self) {
        let Self { limit, streams } = self;
        if streams < WARN_BELOW {
            tracing::warn!(
                open_files = limit,
                streams,
                "there is capacity for only {streams} concurrent streams: raise the hard limit of open files, now {limit} \
                 (`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
            );
        } else {
            tracing::info!(
                open_files = limit,
                streams,
                "there is capacity for {streams} concurrent streams"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_needs_two_of_the_files_that_are_left() {
        for (limit, threads, streams) in [
            (1_024, 2, 490),
            (20_000, 2, 9_978),
            (20_000, 64, 9_792),
            // A limit too low for any stream still allows 16.
            (40, 2, 16),
            (0, 1, 16),
        ] {
            let found = OpenFiles::new(limit, threads);
            assert_eq!(found, OpenFiles { limit, streams }, "{threads} threads");
        }
        assert!(OpenFiles::new(u64::MAX, 2).streams > 1 << 60);
    }
}
