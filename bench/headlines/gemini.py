"""B: a provider that answers 503 to half of all calls. How many requests still fail, with one key and with three?"""

from .bench import Caller, Row, at_once

TITLE = "a provider that answers 503 to half of all calls"
REQUESTS = 2000
CALLERS = 16
FAIL_SHARE = 0.5
RETRIES = 5
ROUNDS = 3
# Number of keys, and of attempts per request: min(retries + 1, 2 × keys).
ATTEMPTS = [(3, 6), (2, 4), (1, 2)]

# The keys come as users write them: one variable with commas and blanks. The short backoff scales the time.
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
    yield _failures(bench, 1, 0, "50 %", "1 key, no retries")
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


def _failures(bench, keys, retries, promised, what):
    with _keypool(bench, keys, retries, FAIL_SHARE) as (keypool, _):
        answers, _ = at_once(_callers(keypool, CALLERS), REQUESTS // CALLERS)
    attempts = min(retries + 1, 2 * keys)
    if any(answer.attempts > attempts for answer in answers):
        raise RuntimeError(f"a request was tried more than {attempts} times")
    best = FAIL_SHARE**attempts
    measured = sum(answer.status != 200 for answer in answers) / len(answers)
    # Four standard deviations of this many coin tosses.
    most = best + 4 * (best * (1 - best) / len(answers)) ** 0.5
    shares = f"{100 * best:.1f} %", f"{100 * measured:.1f} %"
    return Row(f"requests that fail, {what}", promised, *shares, measured <= most)


def _attempts(bench, keys, expected):
    """The number of attempts of a request when every call fails."""
    with _keypool(bench, keys, RETRIES, 1.0) as (keypool, mock):
        (answer,), _ = at_once(_callers(keypool, 1), 1)
        called = sum(key["requests"] for key in mock.seen().values())
    measured = f"{called}" if called == answer.attempts else f"{called}, but the header says {answer.attempts}"
    what = f"attempts of a request, {'1 key' if keys == 1 else f'{keys} keys'}"
    return Row(what, str(expected), str(expected), measured, measured == str(expected))
