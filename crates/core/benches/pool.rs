//! How long it takes to get a key and give it back: one key, twenty, ten thousand, half of them unavailable.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use keypool_core::clock::Clock;
use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Demand, Lease, Pool, Registry};
use keypool_core::secret::Secret;
use keypool_core::settings::{
    BreakerSettings, KeySettings, PoolSettings, QueueSettings, RetrySettings, Strategy,
    TimeoutSettings,
};

struct RealClock;

#[expect(clippy::disallowed_methods, reason = "a clock")]
impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

fn pool(keys: usize, strategy: Strategy) -> Arc<Pool> {
    let base_url: keypool_core::base_url::BaseUrl =
        "https://api.example.com/v1".parse().expect("a URL");
    let key = |n: usize| KeySettings {
        name: format!("key-{n}").into(),
        secret: Secret::new(format!("secret-{n}")),
        base_url: base_url.clone(),
        proxy: None,
        model: None,
        group: None,
        weight: 1,
        max_concurrent: None,
    };
    let settings = PoolSettings {
        name: "bench".into(),
        provider: "mock",
        strategy,
        models: vec!["*".into()],
        keys: (0..keys).map(key).collect(),
        retry: RetrySettings::default(),
        breaker: BreakerSettings::default(),
        queue: QueueSettings::default(),
        timeouts: TimeoutSettings::default(),
        source: "bench".into(),
    };
    Registry::new(Arc::new(RealClock))
        .pools(&[settings], &[])
        .remove(0)
}

/// Makes every second key invalid.
fn lose_half(pool: &Arc<Pool>) {
    let leases: Vec<Lease> = (0..pool.members().len())
        .filter_map(|_| pool.acquire(&Demand::of("m")))
        .collect();
    for lease in leases {
        if lease.place() % 2 == 0 {
            let _ = lease.failed(&Fault::of(Class::Rejected));
        }
    }
}

fn acquire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("acquire_and_release");
    for strategy in [
        Strategy::RoundRobin,
        Strategy::LeastLoaded,
        Strategy::Random,
        Strategy::Affinity,
    ] {
        for (keys, half) in [(1, false), (20, false), (10_000, false), (10_000, true)] {
            let pool = pool(keys, strategy);
            let mut demand = Demand::of("m");
            if half {
                lose_half(&pool);
            }
            let name = format!("{keys}{}", if half { "_half_unavailable" } else { "" });
            group.bench_function(BenchmarkId::new(format!("{strategy:?}"), name), |bencher| {
                bencher.iter(|| {
                    // Heeded by affinity alone.
                    demand.conversation = Some(fastrand::u64(..1_000_000));
                    black_box(pool.acquire(&demand)).map(Lease::succeeded)
                });
            });
        }
    }
    group.finish();
}

/// A request that finds all keys resting: nothing changes between two of them.
fn refuse(criterion: &mut Criterion) {
    let pool = pool(10_000, Strategy::RoundRobin);
    let demand = Demand::of("m");
    while let Some(lease) = pool.acquire(&demand) {
        let _ = lease.failed(&Fault::of(Class::RateLimited));
    }
    criterion.bench_function("refuse/10000_rate_limited", |bencher| {
        bencher.iter(|| {
            let lease = black_box(pool.acquire(&demand));
            (
                lease.is_none(),
                black_box(pool.outlook(&demand)),
                pool.census(&demand),
            )
        });
    });
}

criterion_group!(benches, acquire, refuse);
criterion_main!(benches);
