"""What the two benchmark commands share: their arguments, and how they exit."""

import argparse
import contextlib
import pathlib
import sys

from rig import machine

HERE = pathlib.Path(__file__).resolve().parent


def parser(name, what):
    """Arguments that both commands take. `name`: the command; `what`: its description."""
    out = argparse.ArgumentParser(prog=f"{name} ARGS=…", description=what)
    binaries = HERE.parent / "target" / "release"
    out.add_argument("--binaries", type=pathlib.Path, default=binaries, help=argparse.SUPPRESS)
    return out


def known(parser, what, given, names):
    """Exits with a usage error if one of `given` is not among `names`. `what`: the kind of thing they are."""
    if unknown := [name for name in given if name not in names]:
        parser.error(f"no {what} is called {', '.join(unknown)}; choose from {', '.join(names)}")


@contextlib.contextmanager
def measuring(name):
    """Exits with one line if a tool is missing or on an interrupt, and stops the processes that were started."""
    machine.ending_tidily()
    try:
        yield
    except machine.Missing as missing:
        sys.exit(f"{name}: {missing}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted")
