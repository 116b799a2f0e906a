"""Tests of the code that turns runs into figures: `python3 -m unittest discover -s bench`."""

import unittest

from rig.figures import Asked, Figure, Spread, pairs
from rig.load import Closed, read_wrk
from rig.report import table

QUIET = """\
Running 3s test @ http://127.0.0.1:8080/v1/chat/completions
  1 threads and 64 connections
  120430 requests in 3.10s, 91.20MB read
Requests/sec:  38848.38
"""
TROUBLED = """\
  1000 requests in 900.00ms, 1.20MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 40
"""


class Figures(unittest.TestCase):
    def test_a_figure_is_compared_with_bound_and_goal(self):
        cost, share = Asked(1.5, 1.25), Asked(0.95, at_least=True)
        for asked, value, verdict in [
            (cost, 1.25, "ok"),
            (cost, 1.26, "goal missed"),
            (cost, 1.5, "goal missed"),
            (cost, 1.51, "over"),
            (share, 0.95, "ok"),
            (share, 0.94, "over"),
        ]:
            self.assertEqual(asked.verdict(value), verdict, (asked, value))

    def test_ratios_are_taken_pair_by_pair(self):
        # In the second pair the machine was half as fast, for both.
        self.assertEqual(pairs([30, 60, 33], [20, 40, 20]), Spread(median=1.5, low=1.5, high=1.65))
        with self.assertRaises(ValueError):
            pairs([30, 60], [20])

    def test_wrk_output_is_parsed_with_its_failures(self):
        self.assertEqual(read_wrk(QUIET), Closed(ok=120430, failed=0, seconds=3.1))
        self.assertEqual(read_wrk(TROUBLED), Closed(ok=960, failed=50, seconds=0.9))
        with self.assertRaises(RuntimeError):
            read_wrk("unable to connect")

    def test_a_table_shows_figure_spread_and_verdict(self):
        figure = Figure("small call", "CPU", "×", Spread(1.6, 1.5, 1.7), Asked(1.5, 1.25), "32 µs against 20 µs")
        row = [cell.strip() for cell in table([figure]).splitlines()[2].strip("|").split("|")]
        expected = ["small call", "CPU", "1.60 ×", "1.50 to 1.70", "≤ 1.5", "≤ 1.25", "over", "32 µs against 20 µs"]
        self.assertEqual(row, expected)


if __name__ == "__main__":
    unittest.main()
