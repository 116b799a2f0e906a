//! How long it takes to reserve and to settle in the limiter of one process: for one busy key, and for a million.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keypool_backends::limiter::MemoryLimiter;
use keypool_core::limit::{
    Admission, Ask, Cost, LimitId, Limiter, Limits, OutputHold, Settlement, Usage, WINDOW,
};

const KEYS: u64 = 1_000_000;

fn ask(id: u128) -> Ask {
    Ask {
        id: LimitId(id),
        limits: Limits {
            requests: Some(u32::MAX),
            input_tokens: Some(u32::MAX),
            output_tokens: Some(u32::MAX),
            concurrent: Some(1000),
        },
        cost: Cost {
            input_tokens: 20,
            output: OutputHold {
                mean: 400.0,
                variance: 480.0 * 480.0,
                max: 4096,
            },
        },
    }
}

fn reserve(limiter: &MemoryLimiter, ask: &Ask, now: Instant) -> Option<Admission> {
    limiter.try_reserve(ask, now)?.ok()
}

fn pair(limiter: &MemoryLimiter, ask: &Ask, now: Instant) {
    let ended = Settlement::Ended(Usage {
        input_tokens: Some(19),
        output_tokens: Some(250),
    });
    if let Some(admission) = reserve(limiter, ask, now) {
        limiter.settle(ask.id, &admission, &ended, now);
    }
}

/// An id as a digest has it: all bits are random.
fn id(number: u64) -> u128 {
    let half = keypool_core::hash::scatter;
    u128::from(half(number)) << 64 | u128::from(half(number ^ 0x55aa))
}

#[expect(clippy::disallowed_methods, reason = "where time begins")]
fn limiter(c: &mut Criterion) {
    let epoch = Instant::now();
    let mut group = c.benchmark_group("reserve_and_settle");
    group.throughput(Throughput::Elements(1));
    let one = MemoryLimiter::new(WINDOW, epoch);
    let mut now = epoch;
    group.bench_function("one_key", |b| {
        let ask = ask(id(1));
        b.iter(|| {
            // As if there were a million calls a second.
            now += Duration::from_micros(1);
            pair(&one, black_box(&ask), now);
        });
    });
    let many = MemoryLimiter::new(WINDOW, epoch);
    (0..KEYS).for_each(|key| pair(&many, &ask(id(key)), epoch));
    let mut number = 0_u64;
    group.bench_function("a_million_keys", |b| {
        b.iter(|| {
            number = keypool_core::hash::scatter(number);
            now += Duration::from_micros(1);
            pair(&many, &ask(id(number % KEYS)), now);
        });
    });
    let full = MemoryLimiter::new(WINDOW, epoch);
    let mut at_limit = ask(id(2));
    at_limit.limits.requests = Some(600);
    (0..600).for_each(|n| pair(&full, &at_limit, epoch + Duration::from_millis(100 * n)));
    let now = epoch + Duration::from_millis(59_999);
    group.bench_function("refused", |b| {
        b.iter(|| black_box(full.try_reserve(black_box(&at_limit), now)));
    });
    group.finish();
}

criterion_group!(benches, limiter);
criterion_main!(benches);
