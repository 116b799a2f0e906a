"""A: image analysis by a slow model. A call takes 15 s, a key allows three at a time, and ten users come at once."""

import math

from .bench import Caller, Row, at_once, together

TITLE = "ten users at once, 15 s a call, three calls at a time per key"
USERS = 10
CALL = 15.0
CAP = 3
# Number of keys, seconds for all calls, calls a minute.
PROMISED = [(1, 50, 12), (3, 20, 36), (5, 15, 60)]
# Throughput is measured over this many rounds of calls, so that the start and the end weigh little.
WAVES = 4
# Overhead allowed beyond the calls themselves: a share, plus some milliseconds that do not scale at 1:100.
LEEWAY = 1.15
# The same for jobs.
JOBS_LEEWAY = 1.10
# A job is acknowledged within this time.
ACKNOWLEDGED_MS = 50

# No cap is set: keypool's default for Ark is three.
SETTINGS = """
[pools.vision]
provider = "ark"
base_url = "http://{provider}/api/v3"
models = ["*"]
keys = "KEYS"
[pools.vision.queue]
timeout = "10m"
"""
BODY = {
    "model": "doubao-1-5-thinking-vision-pro-250428",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this picture?"},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "QUJD" * 4096}},
            ],
        }
    ],
}


def measure(bench):
    yield _sequential(bench)
    for keys, seconds, per_minute in PROMISED:
        yield _all_at_once(bench, keys, seconds)
        yield _throughput(bench, keys, per_minute)
    acknowledged = []
    for keys, seconds, _ in PROMISED:
        yield _as_jobs(bench, keys, seconds, acknowledged)
    slowest = max(acknowledged) * 1000
    yield Row("slowest acknowledgement of a job", "at once", "", f"{slowest:.1f} ms", slowest < ACKNOWLEDGED_MS)


def _calls(bench, keys, users, calls):
    """Seconds for all calls, scaled back to real time."""
    settings, behaviour = _setup(bench, keys)
    with bench.keypool(settings, behaviour) as (keypool, mock):
        callers = [Caller(keypool.address, "/v1/chat/completions", BODY) for _ in range(users)]
        answers, took = at_once(callers, calls)
        seen = mock.seen().values()
    refused = [answer.status for answer in answers if answer.status != 200]
    if refused or any(answer.attempts != 1 for answer in answers):
        raise RuntimeError(f"calls were refused by the provider: {refused or 'and retried'}")
    if any(key["max_active"] > CAP for key in seen):
        raise RuntimeError("a key had more calls in flight than its cap")
    return took * bench.scale


def _as_jobs(bench, keys, promised, acknowledged):
    """Submits all calls as jobs at once, and waits for their ends. Adds the seconds until each was acknowledged."""
    settings, behaviour = _setup(bench, keys)
    with bench.keypool(settings, behaviour) as (keypool, _):
        callers = [Caller(keypool.address, "/v1/chat/completions", BODY) for _ in range(USERS)]
        ends, took = together([lambda caller=caller: caller.call_as_job(acknowledged) for caller in callers])
    if any(end != "succeeded" for end in ends):
        raise RuntimeError(f"jobs ended as {ends}")
    took *= bench.scale
    best = math.ceil(USERS / (keys * CAP)) * CALL
    figures = f"{promised} s", f"{best:.0f} s", f"{took:.1f} s"
    return Row(f"as jobs, {_count(keys)}", *figures, took <= best * JOBS_LEEWAY)


def _setup(bench, keys):
    """The configuration, and what the provider does."""
    settings = SETTINGS.replace("KEYS", ",".join(f"ark-key-{number}" for number in range(keys)))
    # The provider refuses a fourth call, so a violated cap is noticed.
    return settings, {"latency_ms": round(CALL / bench.scale * 1000), "max_concurrent": CAP}


def _sequential(bench):
    took = _calls(bench, 1, 1, USERS)
    return _time("one call after another", took, 150, USERS * CALL)


def _all_at_once(bench, keys, promised):
    took = _calls(bench, keys, USERS, 1)
    return _time(f"all at once, {_count(keys)}", took, promised, math.ceil(USERS / (keys * CAP)) * CALL)


def _throughput(bench, keys, promised):
    """Throughput with twice as many callers as slots."""
    slots = keys * CAP
    took = _calls(bench, keys, 2 * slots, WAVES)
    measured = 2 * slots * WAVES / took * 60
    best = slots * 60 / CALL
    figures = f"{promised} a minute", f"{best:.0f} a minute", f"{measured:.1f} a minute"
    return Row(f"throughput, {_count(keys)}", *figures, measured * LEEWAY >= best)


def _time(what, took, promised, best):
    return Row(what, f"{promised} s", f"{best:.0f} s", f"{took:.1f} s", took <= best * LEEWAY)


def _count(keys):
    return "1 key" if keys == 1 else f"{keys} keys"
