//! Numbers the polls of all connection tasks of a thread. Within one poll the clock is read once and cached.
//!
//! hyper may poll a body twice within one poll of the task. The number shows the relay whether other tasks may have run
//! since it last yielded.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    static TIME: Cell<Option<PollTime>> = const { Cell::new(None) };
}

/// The time of the current poll, cached when first read.
#[derive(Clone, Copy, Default)]
struct PollTime {
    monotonic: Option<Instant>,
    wall: Option<SystemTime>,
}

/// The number of the poll that runs on this thread.
pub(crate) fn current() -> u64 {
    NUMBER.get()
}

/// The time of the current poll: what `read` returned first. Outside a poll, `read` is called each time.
pub(crate) fn instant(read: impl FnOnce() -> Instant) -> Instant {
    let Some(time) = TIME.get() else {
        return read();
    };
    time.monotonic.unwrap_or_else(|| {
        let monotonic = read();
        TIME.set(Some(PollTime {
            monotonic: Some(monotonic),
            ..time
        }));
        monotonic
    })
}

/// The wall-clock time of the current poll, likewise.
pub(crate) fn wall(read: impl FnOnce() -> SystemTime) -> SystemTime {
    let Some(time) = TIME.get() else {
        return read();
    };
    time.wall.unwrap_or_else(|| {
        let wall = read();
        TIME.set(Some(PollTime {
            wall: Some(wall),
            ..time
        }));
        wall
    })
}

/// A future whose polls are counted.
pub(crate) struct PollScope<F>(Pin<Box<F>>);

impl<F> PollScope<F> {
    pub(crate) fn of(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for PollScope<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        NUMBER.set(NUMBER.get().wrapping_add(1));
        TIME.set(Some(PollTime::default()));
        let _end = EndOfPoll;
        self.0.as_mut().poll(cx)
    }
}

/// Clears the cached time, even if the poll panics.
struct EndOfPoll;

impl Drop for EndOfPoll {
    fn drop(&mut self) {
        TIME.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_is_read_once_per_poll_and_each_time_outside() {
        let clock = Cell::new(0);
        let epoch = SystemTime::UNIX_EPOCH;
        let read = || {
            clock.set(clock.get() + 1);
            epoch + Duration::from_secs(clock.get())
        };
        let seen = |wall: SystemTime| wall.duration_since(epoch).unwrap_or_default().as_secs();
        assert_eq!((seen(wall(read)), seen(wall(read))), (1, 2));
        let mut polls = PollScope::of(std::future::poll_fn(|_| {
            let times = (current(), seen(wall(read)), seen(wall(read)));
            if times.1 == 3 {
                Poll::Pending
            } else {
                Poll::Ready(times)
            }
        }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut polls).poll(&mut cx).is_pending());
        let first = current();
        assert_eq!(
            Pin::new(&mut polls).poll(&mut cx),
            Poll::Ready((first + 1, 4, 4))
        );
        assert_eq!(seen(wall(read)), 5);
    }
}
