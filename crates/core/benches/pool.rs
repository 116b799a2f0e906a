//! How long it takes to choose a key, and to choose one and give it back: with one key, twenty, ten thousand, and with
//! half of them unavailable, for good or for this model. And how long it takes to refuse if all are cooling.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use keypool_core::clock::Clock;
use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Demand, Leased, Pool, Registry};
use keypool_core::secret::Secret;
use keypool_core::settings::{KeySettings, PoolSettings, Strategy};

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
    let key = |n: usize| {
        let secret = Secret::new(format!("secret-{n}"));
        KeySettings::new(format!("key-{n}"), secret, base_url.clone())
    };
    let settings = PoolSettings {
        name: "bench".into(),
        provider: "mock",
        strategy,
        models: vec!["*".into()],
        keys: (0..keys).map(key).collect(),
        ..PoolSettings::default()
    };
    Registry::new(Arc::new(RealClock), Box::new(|_, _| Arc::new(())))
        .pools(&[settings.into()], &[])
        .remove(0)
}

/// The state of every second key.
#[derive(Clone, Copy)]
enum Half {
    /// It is available.
    Serves,
    /// The provider does not accept it.
    IsInvalid,
    /// It is rate-limited for the model.
    IsCooling,
}

const STRATEGIES: [Strategy; 4] = [
    Strategy::RoundRobin,
    Strategy::LeastLoaded,
    Strategy::Random,
    Strategy::Affinity,
];

const CASES: [(usize, Half, &str); 5] = [
    (1, Half::Serves, "1"),
    (20, Half::Serves, "20"),
    (10_000, Half::Serves, "10000"),
    (10_000, Half::IsInvalid, "10000_half_unavailable"),
    (10_000, Half::IsCooling, "10000_half_cooling"),
];

/// Number of keys in use at once while choosing is timed.
const IN_FLIGHT: usize = 64;

fn lose_half(pool: &Arc<Pool>, half: Half) {
    let fault = match half {
        Half::Serves => return,
        Half::IsInvalid => Fault::of(Class::Rejected),
        Half::IsCooling => {
            let mut fault = Fault::of(Class::RateLimited);
            fault.wait = Some(Duration::from_secs(3600));
            fault
        }
    };
    let mut left = pool.current().members().len() / 2;
    while left > 0 {
        // Without a conversation, so that every key is selected sooner or later.
        let Some(Leased { lease, .. }) = pool.acquire(&Demand::of("m")) else {
            break;
        };
        if lease.member().index() % 2 == 0 {
            let _ = lease.finish(&fault);
            left -= 1;
        }
    }
}

/// Calls `time` with a request's choice of a key, for every strategy and case.
fn each_case(mut time: impl FnMut(BenchmarkId, &mut dyn FnMut() -> Option<Leased>)) {
    for strategy in STRATEGIES {
        for (keys, half, name) in CASES {
            let pool = pool(keys, strategy);
            lose_half(&pool, half);
            let mut demand = Demand::of("m");
            let mut choose = || {
                // Used by affinity alone.
                demand.conversation = Some(fastrand::u64(..1_000_000));
                black_box(pool.acquire(&demand))
            };
            let id = BenchmarkId::new(format!("{strategy:?}"), name);
            time(id, &mut choose);
        }
    }
}

fn choose(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose");
    each_case(|id, choose| {
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| time_of(count, choose));
        });
    });
    group.finish();
}

/// How long `count` choices take, without the time to give the keys back.
fn time_of(count: u64, choose: &mut dyn FnMut() -> Option<Leased>) -> Duration {
    let mut spent = Duration::ZERO;
    let mut in_use: Vec<Option<Leased>> = Vec::with_capacity(IN_FLIGHT);
    let mut left = count;
    while left > 0 {
        let batch = left.min(IN_FLIGHT as u64);
        let begin = RealClock.now();
        in_use.extend((0..batch).map(|_| choose()));
        spent += RealClock.now() - begin;
        in_use.drain(..).flatten().for_each(succeed);
        left -= batch;
    }
    spent
}

fn succeed(leased: Leased) {
    let _ = leased.lease.finish(&Fault::of(Class::Success));
}

fn choose_and_return(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose_and_return");
    each_case(|id, choose| {
        group.bench_function(id, |bencher| {
            bencher.iter(|| choose().map(succeed));
        });
    });
    group.finish();
}

/// A request that finds all keys cooling. Nothing changes from one to the next.
fn refuse(criterion: &mut Criterion) {
    let pool = pool(10_000, Strategy::RoundRobin);
    let demand = Demand::of("m");
    while let Some(Leased { lease, .. }) = pool.acquire(&demand) {
        let _ = lease.finish(&Fault::of(Class::RateLimited));
    }
    criterion.bench_function("key_counts/10000_rate_limited", |bencher| {
        bencher.iter(|| black_box(pool.key_counts(&demand)));
    });
    criterion.bench_function("refuse/10000_rate_limited", |bencher| {
        bencher.iter(|| {
            let lease = black_box(pool.acquire(&demand));
            (lease.is_none(), black_box(pool.next_available(&demand)))
        });
    });
}

criterion_group!(benches, choose, choose_and_return, refuse);
criterion_main!(benches);
