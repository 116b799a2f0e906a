"""B: a provider that answers 503 to half of all calls. How many requests still fail, with one key and with three?"""

from .bench import Caller, Row, at_once

TITLE = "a provider that answers 503 to half of all calls"
REQUESTS = 2000
CALLERS = 16
FAIL_SHARE = 0.5
RETRIES = 5
ROUNDS = 3
# Keys and how many attempts a request has: min(retries + 1, 2 × keys).
ATTEMPTS = [(3, 6), (2, 4), (1, 2)]

# The keys come as they do in life: one variable, commas, blanks. The short back-off is what scales this one.
SETTINGS = """
[pools.gemini]
provider = "gemini"
base_url = "http://{provider}"
keys = "${GEMINI_API_KEY}"
[pools.gemini.retry]
retries = RETRIES
backoff = "5ms"
"""
PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
BODY = {"contents": [{"parts": [{"text": "Say hello to the world, please."}]}]}


def measure(bench):
    yield _rotation(bench)
    yield _failures(bench, 1, 0, "50 %", "1 key, not tried again")
    yield _failures(bench, 1, RETRIES, "50 %", "1 key")
    yield _failures(bench, 3, RETRIES, "5 %", "3 keys")
    for keys, attempts in ATTEMPTS:
        yield _attempts(bench, keys, attempts)


def _keypool(bench, keys, retries, fail_share):
    settings = SETTINGS.replace("RETRIES", str(retries))
    env = {"GEMINI_API_KEY": ", ".join(f"gemini-key-{number}" for number in range(1, keys + 1))}
    return bench.keypool(settings, {"fail_share": fail_share}, env)


def _callers(keypool, count):
    return [Caller(keypool.address, PATH, BODY) for _ in range(count)]


def _rotation(bench):
    with _keypool(bench, 3, RETRIES, 0.0) as (keypool, _):
        answers, _ = at_once(_callers(keypool, 1), 3 * ROUNDS)
    order = [answer.key.removeprefix("gemini-") for answer in answers]
    expected = ["1", "2", "3"] * ROUNDS
    return Row("order of 9 requests, 3 keys", "1 2 3 1 …", " ".join(expected), " ".join(order), order == expected)


def _failures(bench, keys, retries, there, what):
    with _keypool(bench, keys, retries, FAIL_SHARE) as (keypool, _):
        answers, _ = at_once(_callers(keypool, CALLERS), REQUESTS // CALLERS)
    attempts = min(retries + 1, 2 * keys)
    if any(answer.attempts > attempts for answer in answers):
        raise RuntimeError(f"a request was tried more than {attempts} times")
    best = FAIL_SHARE**attempts
    here = sum(answer.status != 200 for answer in answers) / len(answers)
    # Four standard deviations of so many tosses.
    most = best + 4 * (best * (1 - best) / len(answers)) ** 0.5
    return Row(f"requests that fail, {what}", there, f"{100 * best:.1f} %", f"{100 * here:.1f} %", here <= most)


def _attempts(bench, keys, expected):
    """What a request tries when every call fails."""
    with _keypool(bench, keys, RETRIES, 1.0) as (keypool, mock):
        (answer,), _ = at_once(_callers(keypool, 1), 1)
        called = sum(key["requests"] for key in mock.seen().values())
    here = f"{called}" if called == answer.attempts else f"{called}, but the header says {answer.attempts}"
    what = f"attempts of a request, {'1 key' if keys == 1 else f'{keys} keys'}"
    return Row(what, str(expected), str(expected), here, here == str(expected))
