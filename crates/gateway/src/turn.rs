//! Turns of a connection's task. hyper may ask a body twice in one turn; only in a new one did other tasks have theirs.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// The turn that runs now on this thread. Two calls in one turn give the same number.
pub(crate) fn current() -> u64 {
    TURN.get()
}

/// A future each poll of which is a turn.
pub(crate) struct Turns<F>(Pin<Box<F>>);

impl<F> Turns<F> {
    pub(crate) fn of(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        TURN.set(TURN.get().wrapping_add(1));
        self.0.as_mut().poll(cx)
    }
}
