"""C: what is left of many keys' quota. How long does it take to ask for all of them, beside asking one after the other? And
what do requests notice of changes of keys?"""

import http.client
import json
import math
import statistics
import threading
import time

from .bench import Row

TITLE = "the quota of many Tavily keys, with a provider that takes 200 ms for each"
LATENCY = 0.2
# Providers that are waited for at once.
CONCURRENCY = 256
# Refreshes of the same keys; the fastest counts. Tavily allows ten calls of a key in ten minutes.
ROUNDS = 3
IMPORTED = 10_000
IMPORT_SECONDS = 3.0
TOKEN = "token-of-the-quota-benchmark"
# Requests in a second while keys are changed, and how long each run takes.
RATE = 2000
SECONDS = 1
# Runs without changes and as many with them, by turns. A shared machine stops some of them for 10 ms or more, and the 99th
# percentile of such a run is that of the machine. So each side is judged by its lower quartile.
PAIRS = 20
# Time between two changes.
PAUSE = 0.5
# What the 99th percentile may grow by.
SLOWER = 1.2

SETTINGS = """
[pools.tavily]
provider = "tavily"
base_url = "http://{provider}"
"""


def measure(bench):
    yield _refresh(bench, 100, "30 s before, 0.35 s after", 1.15 * LATENCY + 0.05)
    yield _refresh(bench, 1000, "4 waves", 1.15 * _ideal(1000))
    yield from _many(bench)
    yield from _changes(bench)


def _ideal(keys):
    return math.ceil(keys / CONCURRENCY) * LATENCY


def _admin(keypool, method, path, body=None, kind="application/json"):
    """Calls the admin API. Returns the response and the seconds that it took."""
    connection = http.client.HTTPConnection(keypool.address, timeout=120)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": kind}
    began = time.monotonic()
    connection.request(method, f"/api/v1/admin/{path}", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    took = time.monotonic() - began
    connection.close()
    if answer.status not in (200, 201, 204):
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
    return json.loads(text or "null"), took


def _import(keypool, keys):
    lines = "\n".join(f"tvly-made-up-{number:06}" for number in range(keys))
    report, took = _admin(keypool, "POST", "pools/tavily/keys/import", lines, "text/plain")
    if report["added"] != keys:
        raise RuntimeError(f"{report['added']} of {keys} keys were imported")
    return took


def _keypool(bench, latency):
    behaviour = {"latency_ms": round(latency * 1000)}
    return bench.keypool(SETTINGS, behaviour, {"KEYPOOL_ADMIN_TOKEN": TOKEN})


def _refreshed(keypool, keys):
    report, took = _admin(keypool, "POST", "tavily-keys/refresh-quota")
    if report["succeeded"] != keys:
        raise RuntimeError(f"{report['succeeded']} of {keys} keys were refreshed: {report['keys'][:3]}")
    return took


def _refresh(bench, keys, promised, most):
    with _keypool(bench, LATENCY) as (keypool, _):
        _import(keypool, keys)
        took = min(_refreshed(keypool, keys) for _ in range(ROUNDS))
    return Row(f"refresh of {keys:,} keys", promised, f"{_ideal(keys):.2f} s", f"{took:.3f} s", took <= most)


def _many(bench):
    with _keypool(bench, 0.0) as (keypool, _):
        took = _import(keypool, IMPORTED)
        holds = took < IMPORT_SECONDS
        yield Row(f"import of {IMPORTED:,} keys", f"< {IMPORT_SECONDS:.0f} s", "", f"{took:.2f} s", holds)
        took = min(_refreshed(keypool, IMPORTED) for _ in range(ROUNDS))
    what = f"refresh of {IMPORTED:,} keys, provider at once"
    yield Row(what, "", "", f"{took:.2f} s", True)


CHANGED = """
[pools.openai]
provider = "openai-compatible"
base_url = "http://{provider}/v1"
keys = ["made-up-key-1", "made-up-key-2", "made-up-key-3"]
"""


def _changes(bench):
    with bench.keypool(CHANGED, {}, {"KEYPOOL_ADMIN_TOKEN": TOKEN}) as (keypool, _):
        load = bench.load()
        load.paced(keypool.address, "small", 32, RATE, 1)
        before, during, failed, changes = [], [], 0, 0
        for _ in range(PAIRS):
            before.append(load.paced(keypool.address, "small", 32, RATE, SECONDS))
            with _Changing(keypool) as changing:
                during.append(load.paced(keypool.address, "small", 32, RATE, SECONDS))
            changes += changing.count
        failed = sum(run["failed"] for run in before + during)
    what = f"of {RATE:,} requests a second, {changes / PAIRS / SECONDS:.0f} changes a second"
    yield Row(f"failed {what}", "0", "0", str(failed), failed == 0)
    quiet, busy = (statistics.quantiles(run["p99_us"] for run in runs)[0] / 1000 for runs in (before, during))
    yield Row(f"P99 {what}", f"< {SLOWER} x {quiet:.2f} ms", f"{quiet:.2f} ms", f"{busy:.2f} ms", busy < SLOWER * quiet)


class _Changing:
    """Adds a key and deletes it, again and again, as long as it is open."""

    def __init__(self, keypool):
        self._keypool = keypool
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def _run(self):
        while not self._stop.is_set():
            key = json.dumps({"name": "further", "key": f"made-up-further-key-{self.count}"})
            _admin(self._keypool, "POST", "pools/openai/keys", key)
            self._stop.wait(PAUSE)
            _admin(self._keypool, "DELETE", "pools/openai/keys/further")
            self._stop.wait(PAUSE)
            self.count += 2

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
