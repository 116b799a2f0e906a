"""What every headline needs: keypool before a mock provider, callers, and the rows of the table."""

import contextlib
import dataclasses
import http.client
import json
import pathlib
import threading
import time

from rig import servers

# The longest that a caller waits. Unscaled, the last of ten callers of one key has its answer after a minute.
ANSWERED = 600.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One line: what was promised, what is best possible, and what was measured."""

    what: str
    there: str
    best: str
    here: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    key: str
    attempts: int


class Bench:
    """Where headlines are measured. `scale`: so many times faster than in life."""

    def __init__(self, binaries, folder, scale):
        self._binaries = binaries
        self._folder = pathlib.Path(folder)
        self._started = 0
        self.scale = scale

    @contextlib.contextmanager
    def keypool(self, settings, behaviour, env=None):
        """A keypool and its provider. `settings`: a configuration in which {provider} is the provider's address."""
        self._started += 1
        folder = self._folder / str(self._started)
        with servers.Mock(self._binaries, folder / "mock") as mock:
            mock.behave(**behaviour)
            settings = settings.replace("{provider}", mock.address)
            with servers.Keypool(self._binaries, folder / "keypool", settings, env=env) as keypool:
                yield keypool, mock


class Caller:
    """A program that calls a model, one call after the other, over a connection of its own."""

    def __init__(self, address, path, body):
        self._connection = http.client.HTTPConnection(address, timeout=ANSWERED)
        self._path = path
        self._body = json.dumps(body)

    def call(self):
        headers = {"content-type": "application/json", "authorization": "Bearer any"}
        self._connection.request("POST", self._path, self._body, headers)
        answer = self._connection.getresponse()
        answer.read()
        # An answer of keypool's own comes from no key.
        key = answer.headers.get("x-keypool-key", "")
        return Answer(answer.status, key, int(answer.headers.get("x-keypool-attempts", 0)))

    def close(self):
        self._connection.close()


def at_once(callers, calls):
    """All callers at once, `calls` calls each: (their answers, the seconds that it took)."""
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
        raise RuntimeError(f"{len(callers) * calls - len(found)} calls got no answer at all")
    return found, took
