"""J: work that can wait. How fast are jobs acknowledged, how long does a batch of 50,000 calls take beside its provider, and
what do requests notice of 10,000 waiting jobs?"""

import http.client
import json
import statistics
import time

from .bench import Row

TITLE = "jobs acknowledged on disk, and a batch of 50,000 calls over 5 keys with 20 calls at once of 20 ms"
ASYNC = ["--header", "prefer: respond-async"]
# Submissions a second, and how many.
RATE = 2000
SUBMITTED = 10_000
ACKNOWLEDGED_MS = 50
# The batch.
LINES = 50_000
KEYS = 5
SLOTS = 20
CALL = 0.02
LEEWAY = 1.15
MEMORY_MIB = 300
# Requests while jobs wait: runs of a second, the quiet ones count (see quota.py).
WAITING = 10_000
PAIRS = 15

SETTINGS = """
[pools.openai]
provider = "openai-compatible"
base_url = "http://{provider}/v1"
max_concurrent_per_key = CAP
keys = [KEYS]
[pools.slow]
provider = "openai-compatible"
base_url = "http://{provider}/v1"
models = ["slow"]
max_concurrent_per_key = 1
keys = ["made-up-slow-key"]
"""


def measure(bench):
    yield from _submissions(bench)
    yield from _batch(bench)
    yield _requests(bench)


def _settings(keys, cap):
    names = ", ".join(f'"made-up-key-{number}"' for number in range(keys))
    return SETTINGS.replace("KEYS", names).replace("CAP", str(cap))


def _submissions(bench):
    with bench.keypool(_settings(1, 1), {"latency_ms": 5000}) as (keypool, _):
        load = bench.load()
        paced = load.paced(keypool.address, "small", 64, RATE, SUBMITTED // RATE, ASYNC)
        began = time.monotonic()
        whole = load.count(keypool.address, "small", 64, 2 * SUBMITTED, ASYNC)
        rate = 2 * SUBMITTED / (time.monotonic() - began)
    failed = paced["failed"] + whole["failed"]
    p99 = paced["p99_us"] / 1000
    yield Row("submissions acknowledged on disk", f"> {RATE:,} a second", "", f"{rate:,.0f} a second", rate > RATE)
    what = f"P99 of an acknowledgement, {RATE:,} a second"
    yield Row(what, f"< {ACKNOWLEDGED_MS} ms", "", f"{p99:.1f} ms", p99 < ACKNOWLEDGED_MS and failed == 0)


def _batch(bench):
    with bench.keypool(_settings(KEYS, SLOTS), {"latency_ms": round(CALL * 1000)}) as (keypool, mock):
        began = time.monotonic()
        bench.load().count(mock.address, "small", KEYS * SLOTS, LINES)
        direct = time.monotonic() - began
        took, counts = _run_batch(keypool)
        memory = keypool.peak_mib()
    ideal = LINES / (KEYS * SLOTS) * CALL
    complete = counts == {"total": LINES, "completed": LINES, "failed": 0}
    best = f"{ideal:.0f} s; the provider alone {direct:.1f} s"
    promised = f"{LEEWAY} x {ideal:.0f} s"
    yield Row(f"batch of {LINES:,} calls", promised, best, f"{took:.1f} s", complete and took < LEEWAY * max(ideal, direct))
    yield Row("peak memory of that", f"< {MEMORY_MIB} MiB", "", f"{memory:.0f} MiB", memory < MEMORY_MIB)


def _run_batch(keypool):
    """Returns the seconds from its creation to its end, and how many calls became what."""
    calls = (
        {"custom_id": f"call-{n}", "method": "POST", "url": "/v1/chat/completions", "body": _body(n)} for n in range(LINES)
    )
    lines = "".join(json.dumps(call) + "\n" for call in calls)
    edge = "made-up-boundary"
    part = f'--{edge}\r\ncontent-disposition: form-data; name="'
    form = f'{part}purpose"\r\n\r\nbatch\r\n{part}file"; filename="calls.jsonl"\r\n\r\n{lines}\r\n--{edge}--\r\n'
    file = _call(keypool, "POST", "/v1/files", form.encode(), f"multipart/form-data; boundary={edge}")
    new = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    began = time.monotonic()
    batch = _call(keypool, "POST", "/v1/batches", json.dumps(new).encode(), "application/json")
    while batch["status"] in ("validating", "in_progress"):
        time.sleep(0.1)
        batch = _call(keypool, "GET", f"/v1/batches/{batch['id']}")
    return time.monotonic() - began, batch["request_counts"]


def _body(number):
    return {"model": "m", "messages": [{"role": "user", "content": f"Call {number}: say hello, please."}]}


def _requests(bench):
    with bench.keypool(_settings(3, 100), {}) as (keypool, mock):
        load = bench.load()
        run = lambda: load.paced(keypool.address, "small", 32, RATE, 1)  # noqa: E731
        run()
        before = [run() for _ in range(PAIRS)]
        mock.behave("made-up-slow-key", latency_ms=600_000)
        load.count(keypool.address, "slow", 64, WAITING, ASYNC)
        during = [run() for _ in range(PAIRS)]
    quiet, busy = (statistics.quantiles(one["p99_us"] for one in runs)[0] / 1000 for runs in (before, during))
    failed = sum(one["failed"] for one in during)
    what = f"P99 of {RATE:,} requests a second, {WAITING:,} jobs wait"
    return Row(what, f"< 1.2 x {quiet:.2f} ms", f"{quiet:.2f} ms", f"{busy:.2f} ms", failed == 0 and busy < 1.2 * quiet)


def _call(keypool, method, path, body=None, kind=None):
    connection = http.client.HTTPConnection(keypool.address, timeout=120)
    connection.request(method, path, body, {"content-type": kind} if kind else {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
    return json.loads(text)
