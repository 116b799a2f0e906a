#!/usr/bin/env python3
"""Measures the whole gateway beside nginx and writes the results. `make bench` builds the programs and runs it."""

import dataclasses
import pathlib
import sys
import time

import command
from rig import cases, instructions, machine, measure, report
from rig.rig import FULL, QUICK, Rig

NAME = "make bench"
RESULTS = command.HERE / "RESULTS.md"
# The median of fewer rounds is not published.
FEWEST_ROUNDS = 5


def arguments():
    parser = command.parser(NAME, __doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="case", help=f"which cases (default: all): {', '.join(cases.NAMES)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a first look in a minute and a half; writes no results"
    )
    parser.add_argument(
        "--against",
        metavar="DIR",
        type=lambda path: pathlib.Path(path).resolve(),
        help="compare with the keypool of another build in this folder instead of nginx; writes no results",
    )
    parser.add_argument("--rounds", type=int, help="pairs of runs for each case")
    parser.add_argument("--seconds", type=int, help="minimum length of a run")
    args = parser.parse_args()
    command.known(parser, "case", args.cases, cases.NAMES)
    for option in ("rounds", "seconds"):
        if (given := getattr(args, option)) is not None and given < 1:
            parser.error(f"--{option} must be at least 1")
    return args


def chosen(args):
    """The names of the cases to run, in their order."""
    if args.against:
        paired = [case.name for case in cases.AGAINST_NGINX]
        return [name for name in paired if not args.cases or name in args.cases]
    if args.cases:
        return [name for name in cases.NAMES if name in args.cases]
    return [name for name in cases.NAMES if not (args.quick and name in cases.LONG)]


def effort(args):
    usual = QUICK if args.quick else FULL
    given = {name: getattr(args, name) for name in ("rounds", "seconds") if getattr(args, name)}
    return dataclasses.replace(usual, **given) if given else usual


def tools(names):
    """The tools needed besides our own programs."""
    needed = [] if names == [cases.INSTRUCTIONS] else ["nginx", "wrk"]
    needed += ["redis-server"] if cases.LIMITS in names else []
    return needed + (["valgrind"] if cases.INSTRUCTIONS in names else [])


def figures(rig, names):
    """Runs the cases and prints the name of each."""
    against_nginx = {case.name: case for case in cases.AGAINST_NGINX}
    own = {
        cases.FAILING: measure.failing,
        cases.LIMITS: measure.limits,
        cases.OPEN_LOOP: measure.open_loop,
        cases.INSTRUCTIONS: instructions.instructions,
    }
    found = []
    for name in names:
        print(f"==> {name}", file=sys.stderr, flush=True)
        found += own[name](rig) if name in own else measure.against_nginx(rig, against_nginx[name])
    return found + measure.memory(rig)


def figures_against(rig, names, binaries):
    """Runs the cases with this build and another one."""
    found = []
    for case in cases.AGAINST_NGINX:
        if case.name in names:
            print(f"==> {case.name}", file=sys.stderr, flush=True)
            found += measure.against_build(rig, case, binaries)
    return found + measure.memory_against_build(rig)


def main():
    args = arguments()
    names, how = chosen(args), effort(args)
    began = time.monotonic()
    with command.measuring(NAME):
        machine.require(["wrk"] if args.against else tools(names))
        binaries = machine.programs(args.binaries)
        facts = machine.describe(binaries, ["wrk"] if args.against else tools(names))
        with machine.scratch() as folder:
            with Rig(binaries, folder, how) as rig:
                found = figures_against(rig, names, args.against) if args.against else figures(rig, names)
    print("\n" + report.table(found) + "\n")
    for what, which in facts:
        print(f"{what}: {which}")
    print(f"took {time.monotonic() - began:.0f} s")
    if not args.against and names == cases.NAMES and how.rounds >= FEWEST_ROUNDS:
        RESULTS.write_text(report.document(found, facts, how))
        print(f"written: {RESULTS.relative_to(command.HERE.parent)}")
    else:
        print(f"bench/RESULTS.md not written: that needs every case and at least {FEWEST_ROUNDS} rounds")


if __name__ == "__main__":
    main()
