//! Callers that try to get more than their limit, and limiters that give them less: one test for each known way.

use super::{MINUTE, at, cost, limits};
use crate::limit::{
    Admission, Cost, Dimension, Ledger, Limits, OutputHold, Refusal, Settlement, Until, Usage,
};

fn admit(
    ledger: &mut Ledger,
    millis: u64,
    limits: &Limits,
    cost: Cost,
) -> Result<Admission, Refusal> {
    ledger.admit(at(millis), MINUTE, limits, &cost)
}

fn ended(input: u32, output: u32) -> Settlement {
    Settlement::Ended(Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
    })
}

/// How many of `calls` equal calls are admitted at this time.
fn admitted(ledger: &mut Ledger, millis: u64, limits: &Limits, cost: Cost, calls: usize) -> usize {
    (0..calls)
        .filter(|_| admit(ledger, millis, limits, cost).is_ok())
        .count()
}

#[test]
fn case_1_a_full_burst_before_the_minute_ends_and_another_after() {
    let (mut ledger, limits) = (Ledger::default(), limits(600, 0, 0));
    assert_eq!(admitted(&mut ledger, 59_900, &limits, cost(1, 1), 700), 600);
    for millis in (60_000..119_900).step_by(100) {
        assert_eq!(
            admitted(&mut ledger, millis, &limits, cost(1, 1), 1),
            0,
            "{millis}"
        );
    }
    assert_eq!(
        admitted(&mut ledger, 119_900, &limits, cost(1, 1), 700),
        600
    );
}

#[test]
fn case_2_a_batch_of_the_whole_limit_every_sixty_seconds() {
    let (mut ledger, limits) = (Ledger::default(), limits(100, 0, 0));
    for minute in 0..20 {
        let found = admitted(&mut ledger, minute * 60_000, &limits, cost(1, 1), 100);
        assert_eq!(found, 100, "minute {minute}");
    }
}

#[test]
fn case_3_a_hundred_calls_at_once_before_any_has_ended() {
    let (mut ledger, limits) = (Ledger::default(), limits(0, 0, 1_000));
    assert_eq!(admitted(&mut ledger, 0, &limits, cost(10, 300), 100), 3);
}

#[test]
fn case_4_a_large_call_with_one_token_left() {
    let (mut ledger, limits) = (Ledger::default(), limits(0, 1_000, 0));
    assert_eq!(admitted(&mut ledger, 0, &limits, cost(999, 0), 1), 1);
    let refusal = admit(&mut ledger, 500, &limits, cost(50, 0)).unwrap_err();
    assert_eq!(
        (refusal.dimension, refusal.limit),
        (Dimension::InputTokens, 1_000)
    );
    assert_eq!(refusal.until, Until::At(at(60_000)));
    assert!(admit(&mut ledger, 59_999, &limits, cost(50, 0)).is_err());
    assert!(admit(&mut ledger, 60_000, &limits, cost(50, 0)).is_ok());
}

#[test]
fn case_5_a_call_that_produces_more_than_was_left() {
    let (mut ledger, limits) = (Ledger::default(), limits(0, 0, 1_000));
    let call = admit(&mut ledger, 0, &limits, cost(0, 900)).unwrap();
    ledger.settle(at(5_000), MINUTE, &call, &ended(0, 5_000));
    let left = ledger.remaining(at(5_000), MINUTE, &limits)[2].unwrap();
    assert_eq!((left.remaining, left.resets), (0, at(65_000)));
    // What was held leaves a minute after the call began, the debt a minute after it was known.
    let refusal = admit(&mut ledger, 61_000, &limits, cost(0, 1)).unwrap_err();
    assert_eq!(refusal.until, Until::At(at(65_000)));
    assert!(admit(&mut ledger, 65_000, &limits, cost(0, 1_000)).is_ok());
}

#[test]
fn case_6_a_stream_of_ten_minutes_stays_held() {
    let (mut ledger, limits) = (Ledger::default(), limits(0, 0, 1_000));
    let stream = admit(&mut ledger, 0, &limits, cost(0, 800)).unwrap();
    for minute in 1..10 {
        let now = minute * 60_000;
        let refusal = admit(&mut ledger, now, &limits, cost(0, 300)).unwrap_err();
        assert_eq!(
            refusal.dimension,
            Dimension::OutputTokens,
            "minute {minute}"
        );
        let call = admit(&mut ledger, now, &limits, cost(0, 200)).unwrap();
        ledger.settle(at(now + 1), MINUTE, &call, &Settlement::Failed);
    }
    ledger.settle(at(600_000), MINUTE, &stream, &ended(0, 800));
    assert!(admit(&mut ledger, 600_000, &limits, cost(0, 1_000)).is_ok());
}

#[test]
fn case_12_a_limit_that_is_lowered_or_raised_holds_at_once() {
    let mut ledger = Ledger::default();
    assert_eq!(
        admitted(&mut ledger, 0, &limits(100, 0, 0), cost(0, 0), 50),
        50
    );
    assert_eq!(
        admitted(&mut ledger, 1, &limits(10, 0, 0), cost(0, 0), 1),
        0
    );
    assert_eq!(
        admitted(&mut ledger, 2, &limits(60, 0, 0), cost(0, 0), 99),
        10
    );
}

#[test]
fn case_15_a_clock_that_jumps_back_or_ahead() {
    let (mut ledger, limits) = (Ledger::default(), limits(10, 0, 0));
    assert_eq!(admitted(&mut ledger, 30_000, &limits, cost(0, 0), 10), 10);
    assert_eq!(admitted(&mut ledger, 0, &limits, cost(0, 0), 10), 0);
    assert_eq!(admitted(&mut ledger, 89_999, &limits, cost(0, 0), 10), 0);
    assert_eq!(
        admitted(&mut ledger, u64::MAX / 2_000_000, &limits, cost(0, 0), 20),
        10
    );
}

#[test]
fn case_17_limits_up_to_the_largest() {
    let most = u32::MAX;
    let (mut ledger, limits) = (Ledger::default(), limits(most, most, most));
    let half = cost(1_u32 << 31, 1 << 31);
    assert!(admit(&mut ledger, 0, &limits, half).is_ok());
    let refusal = admit(&mut ledger, 1, &limits, half).unwrap_err();
    assert_eq!(refusal.dimension, Dimension::InputTokens);
    assert!(admit(&mut ledger, 2, &limits, cost((1 << 31) - 1, (1 << 31) - 1)).is_ok());
    assert!(
        admit(&mut ledger, 3, &limits, cost(0, 0)).is_ok(),
        "it needs one request only"
    );
    let debt = admit(&mut ledger, 60_001, &limits, cost(0, 0)).unwrap();
    ledger.settle(at(60_001), MINUTE, &debt, &ended(most, most));
    assert!(admit(&mut ledger, 60_002, &limits, cost(1, 0)).is_err());
}

#[test]
fn case_18_calls_that_cost_nothing_and_calls_that_never_fit() {
    let (mut ledger, limits) = (Ledger::default(), limits(2, 100, 100));
    for cost in [cost(101, 0), cost(0, 101), cost(u32::MAX, u32::MAX)] {
        let refusal = admit(&mut ledger, 0, &limits, cost).unwrap_err();
        assert_eq!(refusal.until, Until::Never);
    }
    assert_eq!(admitted(&mut ledger, 0, &limits, cost(0, 0), 3), 2);
    assert!(admit(&mut ledger, 60_000, &limits, cost(100, 100)).is_ok());
}

#[test]
fn all_dimensions_or_none() {
    let (mut ledger, limits) = (Ledger::default(), limits(5, 100, 100));
    for (call, dimension) in [
        (cost(101, 1), Dimension::InputTokens),
        (cost(1, 101), Dimension::OutputTokens),
    ] {
        assert_eq!(
            admit(&mut ledger, 0, &limits, call).unwrap_err().dimension,
            dimension
        );
    }
    let left = ledger.remaining(at(0), MINUTE, &limits);
    assert_eq!(left.map(|left| left.unwrap().remaining), [5, 100, 100]);
}

#[test]
fn the_reason_that_lasts_longest_is_named() {
    let (mut ledger, limits) = (Ledger::default(), limits(2, 100, 0));
    admit(&mut ledger, 0, &limits, cost(10, 0)).unwrap();
    admit(&mut ledger, 20_000, &limits, cost(90, 0)).unwrap();
    let refusal = admit(&mut ledger, 30_000, &limits, cost(50, 0)).unwrap_err();
    assert_eq!(refusal.dimension, Dimension::InputTokens);
    assert_eq!(refusal.until, Until::At(at(80_000)));
}

#[test]
fn calls_in_flight_are_limited_and_freed_when_they_end() {
    let limits = Limits {
        concurrent: Some(2),
        ..Limits::default()
    };
    let mut ledger = Ledger::default();
    let first = admit(&mut ledger, 0, &limits, cost(5, 5)).unwrap();
    admit(&mut ledger, 0, &limits, cost(5, 5)).unwrap();
    let refusal = admit(&mut ledger, 100_000, &limits, cost(5, 5)).unwrap_err();
    assert_eq!(
        (refusal.dimension, refusal.until),
        (Dimension::Concurrency, Until::CallEnds(None))
    );
    ledger.settle(at(100_000), MINUTE, &first, &Settlement::NotSent);
    assert!(admit(&mut ledger, 100_000, &limits, cost(5, 5)).is_ok());
}

#[test]
fn what_is_given_back_depends_on_how_the_call_ended() {
    let limits = limits(10, 1_000, 1_000);
    for (settlement, expect) in [
        (Settlement::NotSent, [10, 1_000, 1_000]),
        (Settlement::Failed, [9, 1_000, 1_000]),
        (Settlement::Ended(Usage::default()), [9, 900, 500]),
        (ended(40, 60), [9, 960, 940]),
        (ended(140, 600), [9, 860, 400]),
    ] {
        let mut ledger = Ledger::default();
        let call = admit(&mut ledger, 0, &limits, cost(100, 500)).unwrap();
        ledger.settle(at(10), MINUTE, &call, &settlement);
        let left = ledger.remaining(at(10), MINUTE, &limits);
        assert_eq!(
            left.map(|left| left.unwrap().remaining),
            expect,
            "{settlement:?}"
        );
    }
}

#[test]
fn calls_in_flight_hold_less_together_than_alone() {
    let limits = limits(0, 0, 20_000);
    let call = Cost {
        input_tokens: 0,
        output: OutputHold {
            mean: 400.0,
            variance: 480.0 * 480.0,
            max: 4096,
        },
    };
    let mut ledger = Ledger::default();
    // Alone each holds 2,320: eight of them.
    assert_eq!(admitted(&mut ledger, 0, &limits, call, 100), 25);
}
