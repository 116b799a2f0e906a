"""C: what is left of many keys' quota. How long does it take to ask for all of them, beside asking one after the other?"""

import http.client
import json
import math
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

SETTINGS = """
[pools.tavily]
provider = "tavily"
base_url = "http://{provider}"
"""


def measure(bench):
    yield _refresh(bench, 100, "30 s before, 0.35 s after", 1.15 * LATENCY + 0.05)
    yield _refresh(bench, 1000, "4 waves", 1.15 * _ideal(1000))
    yield from _many(bench)


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
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
    return json.loads(text), took


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
