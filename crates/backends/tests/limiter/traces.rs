//! Random calls on every limiter, compared with a log of every charge.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::limit::{Settlement, Usage};
use parking_lot::Mutex;

use crate::backend::{Backend, ask};

/// Number of calls that ask: 50 times as many with `KEYPOOL_LONG`, as `make test-full` sets it.
fn asks() -> usize {
    match std::env::var_os("KEYPOOL_LONG") {
        Some(_) => 1_000_000,
        None => 20_000,
    }
}

/// Calls that ask at the same time.
const AT_ONCE: usize = 32;
const LIMITS: [u32; 3] = [60, 12_000, 9_000];

/// When an admitted call counts, in nanoseconds, and for how much.
pub(crate) type Charge = (u64, [u64; 3]);

/// The largest sum in any interval of this length, for each dimension.
pub(crate) fn worst(mut charges: Vec<Charge>, window: Duration) -> [u64; 3] {
    charges.sort_unstable();
    let (mut oldest, mut sum, mut worst) = (0, [0; 3], [0; 3]);
    for (at, amounts) in &charges {
        while u128::from(charges[oldest].0) + window.as_nanos() <= u128::from(*at) {
            for (sum, amount) in sum.iter_mut().zip(charges[oldest].1) {
                *sum -= amount;
            }
            oldest += 1;
        }
        for ((sum, amount), worst) in sum.iter_mut().zip(amounts).zip(&mut worst) {
            *sum += amount;
            *worst = (*worst).max(*sum);
        }
    }
    worst
}

/// Many calls at once with random costs, which use no more than they said.
async fn never_more_than_the_limit(backend: Backend, window: Duration) {
    let backend = Arc::new(backend);
    let charges = Arc::new(Mutex::new(Vec::<Charge>::new()));
    let callers = (0..AT_ONCE).map(|n| {
        let (backend, charges) = (Arc::clone(&backend), Arc::clone(&charges));
        async move {
            let mut random = fastrand::Rng::with_seed(n as u64);
            for _ in 0..asks() / AT_ONCE {
                let (input, output) = (random.u32(0..400), random.u32(0..300));
                let Ok(call) = backend.ask(&ask(1, LIMITS, input, output)).await else {
                    tokio::time::sleep(Duration::from_micros(random.u64(0..2_000))).await;
                    continue;
                };
                let (input, output) = (random.u32(0..=input), random.u32(0..=output));
                let at = backend.counts_at(&call);
                tokio::time::sleep(Duration::from_micros(random.u64(0..5_000))).await;
                let used = Usage {
                    input_tokens: Some(input),
                    output_tokens: Some(output),
                };
                backend.settle(&call, &Settlement::Ended(used));
                charges.lock().push((at, [1, input.into(), output.into()]));
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let charges = std::mem::take(&mut *charges.lock());
    let admitted = charges.len();
    let worst = worst(charges, window);
    for (worst, limit) in worst.into_iter().zip(LIMITS) {
        assert!(worst <= limit.into(), "{worst} of {limit}");
    }
    assert!(
        worst[0] >= 50,
        "nearly all of the limit was used: {worst:?}"
    );
    assert!(admitted > 200, "{admitted}");
}

const WINDOW: Duration = Duration::from_millis(400);

#[tokio::test]
async fn memory() {
    never_more_than_the_limit(Backend::memory(WINDOW).await, WINDOW).await;
}

#[tokio::test]
async fn strict() {
    never_more_than_the_limit(Backend::strict(WINDOW).await, WINDOW).await;
}

#[tokio::test]
async fn strict_with_four_nodes() {
    never_more_than_the_limit(Backend::strict_with_four_nodes(WINDOW).await, WINDOW).await;
}

#[tokio::test]
async fn leased() {
    never_more_than_the_limit(Backend::leased(WINDOW).await, WINDOW).await;
}

#[tokio::test]
async fn leased_with_four_nodes() {
    never_more_than_the_limit(Backend::leased_with_four_nodes(WINDOW).await, WINDOW).await;
}
