//! Single rules.

use std::time::Duration;

use keypool_core::limit::{Dimension, Settlement, Until, Usage};

use crate::backend::{Backend, ask, now};

const MINUTE: Duration = Duration::from_secs(60);

fn ended(input: u32, output: u32) -> Settlement {
    Settlement::Ended(Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
    })
}

async fn case_7_many_calls_on_a_cold_key_at_once(backend: Backend) {
    let one = ask(1, [25, 0, 0], 0, 0);
    let all = (0..60).map(|_| backend.ask(&one));
    let admitted = futures_util::future::join_all(all).await;
    assert_eq!(admitted.iter().filter(|call| call.is_ok()).count(), 25);
    assert!(
        backend.ask(&ask(2, [25, 0, 0], 0, 0)).await.is_ok(),
        "another caller"
    );
}

async fn all_dimensions_are_decided_together(backend: Backend) {
    let limits = [100, 1_000, 1_000];
    for _ in 0..3 {
        assert!(backend.ask(&ask(1, limits, 300, 300)).await.is_ok());
    }
    for (input, output, dimension) in [
        (101, 0, Dimension::InputTokens),
        (0, 101, Dimension::OutputTokens),
        (101, 50, Dimension::InputTokens),
    ] {
        let (refusal, _) = backend
            .ask(&ask(1, limits, input, output))
            .await
            .expect_err("a refusal");
        assert_eq!(refusal.dimension, dimension);
    }
    // A refused call uses nothing.
    assert!(backend.ask(&ask(1, limits, 100, 100)).await.is_ok());
}

async fn what_a_call_did_not_use_is_given_back(backend: Backend) {
    let limits = [10, 1_000, 1_000];
    for (settlement, fits) in [
        (Settlement::NotSent, [1_000, 1_000]),
        (Settlement::Failed, [1_000, 1_000]),
        (ended(400, 300), [600, 700]),
    ] {
        let call = backend
            .ask(&ask(1, limits, 900, 900))
            .await
            .expect("it fits");
        backend.settle(&call, &settlement);
        backend.settled().await;
        let [input, output] = fits;
        let too_much = backend.ask(&ask(1, limits, input + 1, output + 1)).await;
        assert!(too_much.is_err(), "{settlement:?}");
        let call = backend.ask(&ask(1, limits, input, output)).await.ok();
        let call = call.unwrap_or_else(|| panic!("{settlement:?}: {fits:?} fit"));
        backend.settle(&call, &Settlement::NotSent);
        backend.settled().await;
    }
}

async fn what_nobody_expected_keeps_others_out(backend: Backend) {
    let limits = [0, 0, 1_000];
    let call = backend.ask(&ask(1, limits, 0, 100)).await.expect("it fits");
    backend.settle(&call, &ended(0, 5_000));
    backend.settled().await;
    let (refusal, _) = backend
        .ask(&ask(1, limits, 0, 1))
        .await
        .expect_err("a refusal");
    assert_eq!(refusal.dimension, Dimension::OutputTokens);
    assert!(matches!(refusal.until, Until::At(_)));
}

async fn a_call_that_never_fits_gets_that_answer(backend: Backend) {
    let (refusal, _) = backend
        .ask(&ask(1, [5, 100, 0], 101, 0))
        .await
        .expect_err("a refusal");
    assert_eq!(
        (refusal.dimension, refusal.limit),
        (Dimension::InputTokens, 100)
    );
    assert_eq!(refusal.until, Until::Never);
}

async fn calls_in_flight_are_counted_until_they_end(backend: Backend) {
    let mut one = ask(1, [0, 0, 0], 5, 5);
    one.limits.concurrent = Some(2);
    let first = backend.ask(&one).await.expect("it fits");
    let _second = backend.ask(&one).await.expect("it fits");
    let (refusal, _) = backend.ask(&one).await.expect_err("a refusal");
    assert_eq!(refusal.dimension, Dimension::Concurrency);
    assert!(matches!(refusal.until, Until::CallEnds(_)));
    backend.settle(&first, &ended(5, 5));
    backend.settled().await;
    assert!(backend.ask(&one).await.is_ok());
}

/// With a short window.
async fn a_refused_call_is_admitted_when_it_was_told(backend: Backend) {
    let one = ask(1, [3, 0, 0], 0, 0);
    for _ in 0..3 {
        assert!(backend.ask(&one).await.is_ok());
    }
    let (refusal, node) = backend.ask(&one).await.expect_err("a refusal");
    let Until::At(tick) = refusal.until else {
        panic!("{refusal:?}");
    };
    let at = backend.node(node).instant(tick);
    let waits = at.saturating_duration_since(now());
    assert!(waits <= Duration::from_millis(1_100), "{waits:?}");
    tokio::time::sleep_until(at.into()).await;
    assert!(backend.ask(&one).await.is_ok(), "after {waits:?}");
}

/// Runs each test on each limiter.
macro_rules! on_every_limiter {
    ($($test:ident($window:expr)),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Backend::memory($window).await).await;
            })+
        }

        mod strict {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Backend::strict($window).await).await;
            })+
        }

        mod strict_with_four_nodes {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Backend::strict_with_four_nodes($window).await).await;
            })+
        }

        mod leased {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Backend::leased($window).await).await;
            })+
        }

        mod leased_with_four_nodes {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Backend::leased_with_four_nodes($window).await).await;
            })+
        }
    };
}

on_every_limiter! {
    case_7_many_calls_on_a_cold_key_at_once(super::MINUTE),
    all_dimensions_are_decided_together(super::MINUTE),
    what_a_call_did_not_use_is_given_back(super::MINUTE),
    what_nobody_expected_keeps_others_out(super::MINUTE),
    a_call_that_never_fits_gets_that_answer(super::MINUTE),
    calls_in_flight_are_counted_until_they_end(super::MINUTE),
    a_refused_call_is_admitted_when_it_was_told(std::time::Duration::from_secs(1)),
}
