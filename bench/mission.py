#!/usr/bin/env python3
"""Measures what keypool promises and prints it beside the promise. `make bench-mission` runs it."""

import sys

import command
import headlines
from headlines import tiers
from headlines.bench import Bench
from rig import machine, report

NAME = "make bench-mission"
SCALE = 100


def arguments():
    letters = ", ".join(f"{letter} ({headline.TITLE})" for letter, headline in headlines.ALL.items())
    parser = command.parser(NAME, __doc__)
    parser.add_argument("headlines", nargs="*", metavar="letter", help=f"which to measure (default: all): {letters}")
    parser.add_argument(
        "--full-time", action="store_true", help=f"real call durations instead of 1:{SCALE}; takes ten minutes"
    )
    parser.add_argument("--processes", type=int, default=4, help="D: number of keypool processes (default: 4)")
    parser.add_argument(
        "--limiter", choices=tiers.LIMITERS, default="strict", help="D: where they count (default: strict)"
    )
    args = parser.parse_args()
    if args.processes < 1:
        parser.error("--processes must be at least 1")
    command.known(parser, "headline", args.headlines, headlines.ALL)
    return args


def measured(letter, bench):
    """Prints the table of one headline and returns the number of lines that fall short."""
    headline = headlines.ALL[letter]
    rows = list(headline.measure(bench))
    print(f"\n{letter}: {headline.TITLE}\n")
    lines = [[row.what, row.promised, row.best, row.measured, "ok" if row.holds else "MISSED"] for row in rows]
    print(report.aligned([["", "promised", "best possible", "measured", ""], *lines]), flush=True)
    return sum(not row.holds for row in rows)


def main():
    args = arguments()
    scale = 1 if args.full_time else SCALE
    letters = args.headlines or list(headlines.ALL)
    with command.measuring(NAME):
        binaries = machine.programs(args.binaries)
        if scale != 1 and "A" in letters:
            print(f"A: calls take 1/{scale} of their real time, and times are scaled back.")
        with machine.scratch() as folder:
            bench = Bench(binaries, folder, scale, args.processes, args.limiter)
            missed = sum(measured(letter, bench) for letter in letters)
    if missed:
        sys.exit(f"\n{missed} lines fall short of what is possible")


if __name__ == "__main__":
    main()
