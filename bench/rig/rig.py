"""The programs, pinned to their cores and started when first needed, and runs of load through them."""

import contextlib
import dataclasses
import pathlib
import sys

from . import cases, machine, servers
from .load import Load


@dataclasses.dataclass(frozen=True)
class Effort:
    """Number of rounds and length of runs, in seconds."""

    rounds: int
    seconds: int
    warm_up: int
    # A 99th percentile needs thousands of calls.
    open_loop_seconds: int


QUICK = Effort(rounds=3, seconds=1, warm_up=1, open_loop_seconds=1)
FULL = Effort(rounds=7, seconds=3, warm_up=2, open_loop_seconds=6)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of load through one program."""

    cpu_us: float
    per_second: float
    failed: int


class Rig:
    """Runs the provider and the load on one core and the measured program on the other."""

    def __init__(self, binaries, folder, effort):
        self.binaries = binaries
        self.folder = pathlib.Path(folder)
        self.effort = effort
        self.core, self._others = machine.cores()
        self._running = contextlib.ExitStack()
        self._started = {}

    def __enter__(self):
        self.mock = self._start("mock", servers.Mock, binaries=self.binaries, core=self._others)
        self.load = Load(self.binaries, self.folder / "load", self._others)
        return self

    def __exit__(self, *_):
        self._running.close()

    def nginx(self):
        return self._start("nginx", servers.Nginx, provider=self.mock.address, core=self.core)

    def keypool(self, name, secrets, binaries=None, more=""):
        """The keypool process of this name, with a pool of these keys.

        `binaries`: those of another build. `more`: further lines of its configuration.
        """
        settings = servers.pool(self.mock.address, secrets, more)
        binaries = binaries or self.binaries
        return self._start(name, servers.Keypool, binaries=binaries, settings=settings, core=self.core)

    def redis(self):
        """A Redis server."""
        return self._start("redis", servers.Redis)

    def keypools(self):
        """The keypool processes started so far, by name."""
        return {name: process for name, process in self._started.items() if isinstance(process, servers.Keypool)}

    def _start(self, name, kind, **settings):
        if name not in self._started:
            process = kind(folder=self.folder / name, **settings)
            self._started[name] = self._running.enter_context(process)
        return self._started[name]

    def in_turns(self, case, ours, theirs):
        """Runs both in pairs. The order alternates, so that neither always follows the other."""
        for process in (ours, theirs):
            self._closed(process, case, self.effort.warm_up)
        seconds = max(case.seconds, self.effort.seconds)
        found = {ours: [], theirs: []}
        for number in range(self.effort.rounds):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            for process in order:
                found[process].append(self._closed(process, case, seconds))
            progress(f"{found[ours][-1].cpu_us:,.1f} µs against {found[theirs][-1].cpu_us:,.1f} µs of CPU per request")
        return found[ours], found[theirs]

    def _closed(self, process, case, seconds):
        before = process.cpu_seconds()
        run = self.load.closed(process.address, case.body, case.connections, seconds)
        cpu = process.cpu_seconds() - before
        process.forget_log()
        if run.ok == 0:
            raise RuntimeError(f"{case.title}: no call of {process.name} succeeded")
        return Run(cpu_us=cpu / run.ok * 1e6, per_second=run.ok / run.seconds, failed=run.failed)

    def at_a_fixed_rate(self, process):
        """One run at a fixed rate. Returns keypool-load's result: latencies in microseconds."""
        seconds = self.effort.open_loop_seconds
        run = self.load.paced(process.address, "small", cases.OPEN_LOOP_CONNECTIONS, cases.OPEN_LOOP_RATE, seconds)
        process.forget_log()
        return run


def progress(text):
    """Prints progress for the user."""
    print(f"    {text}", file=sys.stderr, flush=True)
