"""Tests of the exact log: each kind of wrong decision is found, and no decision that some order explains."""

import unittest

from .exact_log import Cost, Entry, ExactLog

ONE = {"requests": Cost(1, 1, 1)}


def admitted(earliest, latest, ends=(1000, 1000), **left):
    return Entry(True, (earliest, latest), ends, left)


def refused(earliest, latest):
    return Entry(False, (earliest, latest))


def requests(limit, *calls):
    return ExactLog(list(calls), {"requests": limit}, ONE)


def at_once(limit, *calls):
    return ExactLog(list(calls), {"concurrency": limit}, {})


class Admissions(unittest.TestCase):
    def test_one_call_more_than_the_limit_in_a_window_is_found(self):
        calls = [admitted(n, n + 1) for n in range(4)]
        self.assertEqual(requests(3, *calls).admissions_beyond_a_limit(), calls[3:])
        self.assertEqual(requests(4, *calls).admissions_beyond_a_limit(), [])

    def test_calls_count_for_one_window_only(self):
        self.assertEqual(requests(1, admitted(0, 1), admitted(61, 62)).admissions_beyond_a_limit(), [])
        # Wherever the two moments lie, they are less than 60 s apart.
        self.assertEqual(len(requests(1, admitted(3, 4), admitted(61, 62)).admissions_beyond_a_limit()), 1)
        # The first may have left the window.
        self.assertEqual(requests(1, admitted(0, 4), admitted(59, 62)).admissions_beyond_a_limit(), [])

    def test_calls_at_the_same_moments_count_in_any_order(self):
        self.assertEqual(len(requests(2, *[admitted(0, 5)] * 5).admissions_beyond_a_limit()), 3)

    def test_the_largest_amount_of_one_dimension_is_enough(self):
        limits, costs = {"requests": 9, "input_tokens": 20}, ONE | {"input_tokens": Cost(10, 9, 11)}
        calls = [admitted(n, n, (n + 0.5, n + 0.5)) for n in range(3)]
        self.assertEqual(ExactLog(calls, limits, costs).admissions_beyond_a_limit(), calls[2:])
        # In flight, they may have been counted as 9 each, and the third as well.
        calls = [admitted(n, n) for n in range(3)]
        self.assertEqual(ExactLog(calls, {"input_tokens": 27}, costs).admissions_beyond_a_limit(), [])

    def test_a_call_in_flight_counts_as_what_it_holds(self):
        costs, first = {"output_tokens": Cost(10, 30, 30)}, admitted(0, 1, (5, 6))
        log = ExactLog([first, admitted(2, 3, (7, 8))], {"output_tokens": 59}, costs)
        self.assertEqual(len(log.admissions_beyond_a_limit()), 1)
        # The first may have ended before, or has.
        for second in admitted(4, 6, (9, 9)), admitted(7, 8, (9, 9)):
            log = ExactLog([first, second], {"output_tokens": 40}, costs)
            self.assertEqual(log.admissions_beyond_a_limit(), [])

    def test_only_calls_surely_in_flight_exceed_concurrency(self):
        first = admitted(0, 1, (5, 9))
        self.assertEqual(len(at_once(1, first, admitted(3, 4, (8, 9))).admissions_beyond_a_limit()), 1)
        # The first may have ended before.
        self.assertEqual(at_once(1, first, admitted(4, 6, (8, 9))).admissions_beyond_a_limit(), [])


class Refusals(unittest.TestCase):
    def verdicts(self, log):
        return len(log.refusals_with_room()), len(log.refusals_without_room())

    def test_a_refusal_is_wrong_with_room_and_right_without(self):
        self.assertEqual(self.verdicts(requests(2, admitted(0, 1), refused(2, 3))), (1, 0))
        self.assertEqual(self.verdicts(requests(1, admitted(0, 1), refused(2, 3))), (0, 1))

    def test_a_refusal_that_some_order_explains_is_neither(self):
        self.assertEqual(self.verdicts(requests(1, admitted(0, 2), refused(1, 3))), (0, 0))
        # The first may have left the window, or not.
        self.assertEqual(self.verdicts(requests(1, admitted(0, 2), refused(60, 61))), (0, 0))
        self.assertEqual(self.verdicts(requests(1, admitted(0, 2), refused(62.5, 63))), (1, 0))

    def test_a_call_that_ended_counts_as_what_it_used(self):
        costs = {"input_tokens": Cost(10, 9, 15)}
        ended, in_flight = admitted(0, 1, (2, 3)), admitted(0, 1, (7, 8))
        self.assertEqual(self.verdicts(ExactLog([ended, refused(4, 5)], {"input_tokens": 25}, costs)), (1, 0))
        self.assertEqual(self.verdicts(ExactLog([in_flight, refused(4, 5)], {"input_tokens": 25}, costs)), (0, 0))
        self.assertEqual(self.verdicts(ExactLog([ended, refused(4, 5)], {"input_tokens": 18}, costs)), (0, 1))

    def test_concurrency_is_exceeded_while_a_call_is_in_flight(self):
        first = admitted(0, 1, (5, 6))
        self.assertEqual(self.verdicts(at_once(1, first, refused(2, 3))), (0, 1))
        self.assertEqual(self.verdicts(at_once(1, first, refused(5, 7))), (0, 0))
        self.assertEqual(self.verdicts(at_once(1, first, refused(7, 8))), (1, 0))


class Promises(unittest.TestCase):
    def test_a_response_must_not_say_that_more_is_left(self):
        first = admitted(0, 1, requests=2)
        self.assertEqual(requests(3, first, admitted(2, 3, requests=1)).promises_beyond_a_limit(), [])
        wrong = admitted(2, 3, requests=2)
        self.assertEqual(requests(3, first, wrong).promises_beyond_a_limit(), [wrong])
        # The second may have come first.
        self.assertEqual(requests(3, first, admitted(0.5, 3, requests=2)).promises_beyond_a_limit(), [])


if __name__ == "__main__":
    unittest.main()
