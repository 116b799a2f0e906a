"""What every headline needs: keypool in front of a mock provider, callers, and table rows."""

import contextlib
import dataclasses
import http.client
import json
import pathlib
import threading
import time

from rig import load, servers

# The longest that a caller waits. At full time, the last of ten callers of one key gets its response after a minute.
ANSWERED = 600.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One table row: what was promised, what is possible at best, and what was measured."""

    what: str
    promised: str
    best: str
    measured: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    key: str
    attempts: int


class Bench:
    """Where headlines are measured.

    `scale`: the factor by which time is sped up. `processes`, `limiter`: of headlines about limits.
    """

    def __init__(self, binaries, folder, scale, processes, limiter):
        self._binaries = binaries
        self._folder = pathlib.Path(folder)
        self._started = 0
        self.scale = scale
        self.processes = processes
        self.limiter = limiter

    @contextlib.contextmanager
    def keypool(self, settings, behaviour, env=None):
        """A keypool and its provider. `settings`: a configuration; {provider} in it becomes the provider's address."""
        with self.keypools(1, settings, behaviour, env) as ((keypool,), mock):
            yield keypool, mock

    @contextlib.contextmanager
    def keypools(self, count, settings, behaviour, env=None):
        """Several keypools with the same configuration, and their provider."""
        folder = self._next_folder()
        with contextlib.ExitStack() as running:
            mock = running.enter_context(servers.Mock(self._binaries, folder / "mock"))
            mock.behave(**behaviour)
            settings = settings.replace("{provider}", mock.address)
            yield [
                running.enter_context(
                    servers.Keypool(self._binaries, folder / f"keypool-{number}", settings, env=env)
                )
                for number in range(1, count + 1)
            ], mock

    def load(self):
        """A load generator."""
        return load.Load(self._binaries, self._next_folder())

    def redis(self):
        """A Redis of its own, empty."""
        return servers.Redis(self._next_folder() / "redis")

    def _next_folder(self):
        self._started += 1
        return self._folder / str(self._started)


class Caller:
    """A program that calls a model, one call at a time, over its own connection."""

    def __init__(self, address, path, body):
        self._connection = http.client.HTTPConnection(address, timeout=ANSWERED)
        self._path = path
        self._body = json.dumps(body)

    def call(self):
        headers = {"content-type": "application/json", "authorization": "Bearer any"}
        self._connection.request("POST", self._path, self._body, headers)
        answer = self._connection.getresponse()
        answer.read()
        # Responses of keypool's own come from no key.
        key = answer.headers.get("x-keypool-key", "")
        return Answer(answer.status, key, int(answer.headers.get("x-keypool-attempts", 0)))

    def call_as_job(self, acknowledged):
        """Submits a call as a job, and waits for its end. Returns its status."""
        headers = {"content-type": "application/json", "prefer": "respond-async"}
        began = time.monotonic()
        job = self._json("POST", self._path, self._body, headers)
        acknowledged.append(time.monotonic() - began)
        while job["status"] in ("queued", "running"):
            job = self._json("GET", f"/v1/jobs/{job['id']}?wait=30s")
        return job["status"]

    def _json(self, method, path, body=None, headers=None):
        self._connection.request(method, path, body, headers or {})
        return json.loads(self._connection.getresponse().read())

    def close(self):
        self._connection.close()


def together(actions):
    """Runs all actions at the same time. Returns what they return, and the seconds that it took."""
    results, begin = [], threading.Barrier(len(actions) + 1)

    def work(action):
        begin.wait()
        results.append(action())

    threads = [threading.Thread(target=work, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    if len(results) != len(actions):
        raise RuntimeError(f"{len(actions) - len(results)} of {len(actions)} failed")
    return results, time.monotonic() - began


def at_once(callers, calls):
    """Runs all callers at once, `calls` calls each. Returns their answers and the seconds that it took."""
    answers = [[] for _ in callers]
    together = threading.Barrier(len(callers) + 1)

    def work(caller, mine):
        together.wait()
        for _ in range(calls):
            mine.append(caller.call())

    threads = [threading.Thread(target=work, args=pair) for pair in zip(callers, answers, strict=True)]
    for thread in threads:
        thread.start()
    together.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    for caller in callers:
        caller.close()
    found = [answer for mine in answers for answer in mine]
    if len(found) != len(callers) * calls:
        raise RuntimeError(f"{len(callers) * calls - len(found)} calls got no response")
    return found, took
