//! CountPolls of a connection's task: what happens in one is one moment.
//!
//! hyper may ask a body twice in one turn; only in a new one did other tasks have theirs. And the time need not be
//! asked for a dozen times in it.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    static MOMENT: Cell<Option<Moment>> = const { Cell::new(None) };
}

/// The time of a turn, as far as somebody asked for it.
#[derive(Clone, Copy, Default)]
struct Moment {
    monotonic: Option<Instant>,
    wall: Option<SystemTime>,
}

/// The turn that runs now on this thread. Two calls in one turn give the same number.
pub(crate) fn current() -> u64 {
    NUMBER.get()
}

/// The time of this turn: what `ask` gives the first time. Outside of turns, what it gives each time.
pub(crate) fn instant(ask: impl FnOnce() -> Instant) -> Instant {
    let Some(moment) = MOMENT.get() else {
        return ask();
    };
    moment.monotonic.unwrap_or_else(|| {
        let monotonic = ask();
        MOMENT.set(Some(Moment {
            monotonic: Some(monotonic),
            ..moment
        }));
        monotonic
    })
}

/// The wall-clock time of this turn, likewise.
pub(crate) fn wall(ask: impl FnOnce() -> SystemTime) -> SystemTime {
    let Some(moment) = MOMENT.get() else {
        return ask();
    };
    moment.wall.unwrap_or_else(|| {
        let wall = ask();
        MOMENT.set(Some(Moment {
            wall: Some(wall),
            ..moment
        }));
        wall
    })
}

/// A future each poll of which is a turn.
pub(crate) struct CountPolls<F>(Pin<Box<F>>);

impl<F> CountPolls<F> {
    pub(crate) fn of(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for CountPolls<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        NUMBER.set(NUMBER.get().wrapping_add(1));
        MOMENT.set(Some(Moment::default()));
        let _end = EndOfPoll;
        self.0.as_mut().poll(cx)
    }
}

/// Ends the moment also where the turn panics.
struct EndOfPoll;

impl Drop for EndOfPoll {
    fn drop(&mut self) {
        MOMENT.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_stands_still_in_a_turn_and_nowhere_else() {
        let clock = Cell::new(0);
        let epoch = SystemTime::UNIX_EPOCH;
        let ask = || {
            clock.set(clock.get() + 1);
            epoch + Duration::from_secs(clock.get())
        };
        let seen = |wall: SystemTime| wall.duration_since(epoch).unwrap_or_default().as_secs();
        assert_eq!((seen(wall(ask)), seen(wall(ask))), (1, 2));
        let mut turns = CountPolls::of(std::future::poll_fn(|_| {
            let times = (current(), seen(wall(ask)), seen(wall(ask)));
            if times.1 == 3 {
                Poll::Pending
            } else {
                Poll::Ready(times)
            }
        }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut turns).poll(&mut cx).is_pending());
        let first = current();
        assert_eq!(
            Pin::new(&mut turns).poll(&mut cx),
            Poll::Ready((first + 1, 4, 4))
        );
        assert_eq!(seen(wall(ask)), 5);
    }
}
