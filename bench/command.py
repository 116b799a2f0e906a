"""What both measuring programs are as commands: where their binaries are, and how they end."""

import argparse
import contextlib
import pathlib
import sys

from rig import machine

HERE = pathlib.Path(__file__).resolve().parent


def parser(name, what):
    """The arguments that both take. `name`: how the program is called; `what`: what it does."""
    out = argparse.ArgumentParser(prog=f"{name} ARGS=…", description=what)
    binaries = HERE.parent / "target" / "release"
    out.add_argument("--binaries", type=pathlib.Path, default=binaries, help=argparse.SUPPRESS)
    return out


def known(parser, what, given, names):
    """Ends with a usage error where one of `given` is not among `names`. `what`: what they are."""
    if unknown := [name for name in given if name not in names]:
        parser.error(f"no {what} is called {', '.join(unknown)}; there are {', '.join(names)}")


@contextlib.contextmanager
def measuring(name):
    """Ends with a sentence where something is missing or a person interrupts, and stops what was started."""
    machine.ending_tidily()
    try:
        yield
    except machine.Missing as missing:
        sys.exit(f"{name}: {missing}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted")
