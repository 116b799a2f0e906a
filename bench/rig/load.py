"""Load: wrk as fast as responses arrive, keypool-load at a fixed rate or with a fixed number of requests."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess

from . import machine

PATH = "/v1/chat/completions"
# What wrk sends as its key. Where keypool requires a virtual key, it is this one.
CLIENT_KEY = "the-key-of-the-load-generator"
BODIES = {
    "small": {
        "model": "m",
        "messages": [{"role": "user", "content": "Say hello to the world, please, and be nice about it."}],
        "temperature": 0.2,
    },
    "stream": {
        "model": "m",
        "stream": True,
        "messages": [{"role": "user", "content": "Say hello to the world, please, and be nice about it."}],
    },
    # For a pool of its own.
    "slow": {"model": "slow", "messages": [{"role": "user", "content": "Say hello to the world, please."}]},
    # One image of 1 MiB, in base64.
    "image": {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * (1 << 18)}}],
            }
        ],
    },
}

# The body is built once, before the run.
SCRIPT = """\
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
local file = assert(io.open("{body}", "rb"))
wrk.body = file:read("*a")
file:close()
"""


@dataclasses.dataclass(frozen=True)
class Closed:
    """The result of a run of wrk."""

    ok: int
    failed: int
    seconds: float


class Load:
    """Load generators on one core."""

    def __init__(self, binaries, folder, core=None):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._generator = binaries / "keypool-load"
        self._core = core
        for name, body in BODIES.items():
            file = self._body(name)
            file.write_text(json.dumps(body, separators=(",", ":")))
            file.with_suffix(".lua").write_text(SCRIPT.format(body=file, key=CLIENT_KEY))

    def closed(self, address, body, connections, seconds):
        """Calls as fast as responses arrive, over keep-alive connections."""
        command = [machine.tool("wrk"), "--threads", 1, "--connections", connections, "--duration", f"{seconds}s"]
        # Longer than any response takes, so that wrk gives none up.
        command += ["--timeout", "30s", "--script", self._body(body).with_suffix(".lua"), f"http://{address}{PATH}"]
        return read_wrk(self._run(command, seconds + 60))

    def paced(self, address, body, connections, rate, seconds, more=()):
        """Calls at a fixed rate. Returns keypool-load's result: latencies in microseconds. `more`: further arguments of it."""
        return self._generate(address, body, connections, rate * seconds, ["--rate", rate, *more])

    def count(self, address, body, connections, requests, more=()):
        """Sends exactly this many requests."""
        return self._generate(address, body, connections, requests, more)

    def _generate(self, address, body, connections, requests, more):
        command = [self._generator, "--target", address, "--path", PATH, "--body", self._body(body)]
        command += ["--connections", connections, "--requests", requests, *more]
        # Under valgrind, a request takes a few milliseconds.
        return json.loads(self._run(command, 60 + requests / 20))

    def _body(self, name):
        return self._folder / f"{name}.json"

    def _run(self, command, deadline):
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=deadline,
            preexec_fn=None if self._core is None else lambda: os.sched_setaffinity(0, {self._core}),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def read_wrk(text):
    """Parses the output of wrk."""
    found = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m),", text)
    if found is None:
        raise RuntimeError(f"unexpected output of wrk:\n{text}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = int(refused.group(1)) if refused else 0
    broken = sum(map(int, broken.groups())) if broken else 0
    return Closed(
        ok=int(found.group(1)) - refused,
        failed=refused + broken,
        seconds=float(found.group(2)) * UNITS[found.group(3)],
    )
