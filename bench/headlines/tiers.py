"""D: three tiers of callers whose limits several processes share. Does each decision agree with an exact log?"""

import collections
import contextlib
import dataclasses
import http.client
import json
import threading
import time

from rig import servers

from .bench import Row
from .exact_log import CONCURRENCY, Cost, Entry, ExactLog

TITLE = "three tiers of callers, 100 requests a second, limits shared by all processes"
LIMITERS = {"memory": "", "strict": "strict", "leased": "leased"}
CLIENTS = 50
RATE = 100
SECONDS = 10
CALLS = RATE * SECONDS // CLIENTS
# Every ten clients: low, medium, high.
TIER_OF = "hmhlhmhlhm"
# Share of refusals that may be wrong: clients see the end of a call a moment before it is settled.
WRONG_REFUSALS = 0.01
# Share of refusals of which the clients' moments do not tell. With more, the line above says too little.
UNCLEAR_REFUSALS = 0.25
# Share of responses whose headers may be out of date.
STALE_HEADERS = 0.05
# Milliseconds: the time of a whole response in the system whose figures are to be beaten.
REFERENCE = {"mean": 2.85, "P95": 3.86, "P99": 62.3}

# What the provider takes and reports. Every call uses the same, so that keypool's estimate is exact after a few calls.
LATENCY = 0.1
INPUT, OUTPUT = 100, 20
# As usual, an answer needs a tenth of it. The rest of what a call holds is given back to all processes.
MAX_TOKENS = 10 * OUTPUT
BEHAVIOUR = {"latency_ms": round(LATENCY * 1000), "input_tokens": INPUT, "output_tokens": OUTPUT}
WARM_UP_CALLS = 3
# The estimate is rounded up.
COSTS = {
    "requests": Cost(1, 1, 1),
    "input_tokens": Cost(INPUT, INPUT, INPUT + 1),
    "output_tokens": Cost(OUTPUT, MAX_TOKENS, MAX_TOKENS),
}
SETTING = {"requests": "rpm", "input_tokens": "input_tpm", "output_tokens": "output_tpm", CONCURRENCY: "max_concurrent"}
# Each tier has all four limits and asks for about twice as much: low of requests, medium of input tokens, high of
# output tokens and of calls in flight.
TIERS = {
    "low": {"requests": 100, "input_tokens": 50_000, "output_tokens": 10_000, CONCURRENCY: 10},
    "medium": {"requests": 600, "input_tokens": 15_000, "output_tokens": 20_000, CONCURRENCY: 20},
    "high": {"requests": 1200, "input_tokens": 200_000, "output_tokens": 5_000, CONCURRENCY: 4},
}
LETTERS = {name[0]: name for name in TIERS}

PATH = "/v1/chat/completions"
# About as long as the provider says: of shorter texts, nothing is learned.
MESSAGES = [{"role": "user", "content": "Say hello to the world, please. " * 12}]
BODY = json.dumps({"model": "m", "max_tokens": MAX_TOKENS, "messages": MESSAGES})


@dataclasses.dataclass(frozen=True)
class Call:
    """A call as its client saw it. Times in seconds of the monotonic clock."""

    sent: float
    ended: float
    status: int
    # The limit that had no room, if it was refused.
    dimension: str | None
    left: dict

    def entry(self):
        """What is known of the moments of its decision and of its end."""
        if self.status != 200:
            return Entry(False, (self.sent, self.ended), None, self.left)
        # The provider had it for this time, after the decision and before the end.
        return Entry(True, (self.sent, self.ended - LATENCY), (self.sent + LATENCY, self.ended), self.left)


class Client:
    """A program that calls all processes in turn, at fixed times."""

    def __init__(self, number, addresses):
        self.tier = LETTERS[TIER_OF[number % len(TIER_OF)]]
        self._number = number
        self._connections = [http.client.HTTPConnection(address, timeout=30) for address in addresses]
        for connection in self._connections:
            connection.connect()

    def run(self, key, begin, calls):
        """Makes its calls and appends each to `calls`."""
        for number in range(CALLS):
            due = begin + (number * CLIENTS + self._number) / RATE
            time.sleep(max(due - time.monotonic(), 0))
            connection = self._connections[(self._number + number) % len(self._connections)]
            calls.append(call(connection, key))

    def close(self):
        for connection in self._connections:
            connection.close()


def call(connection, key):
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    sent = time.monotonic()
    connection.request("POST", PATH, BODY, headers)
    answer = connection.getresponse()
    body = answer.read()
    ended = time.monotonic()
    if answer.status not in (200, 429):
        raise RuntimeError(f"unexpected status {answer.status}: {body.decode(errors='replace')}")
    dimension = json.loads(body)["error"]["dimension"] if answer.status == 429 else None
    shown = {name: answer.headers.get(f"x-ratelimit-remaining-{name.replace('_', '-')}") for name in COSTS}
    left = {name: int(text) for name, text in shown.items() if text is not None}
    return Call(sent, ended, answer.status, dimension, left)


def measure(bench):
    with contextlib.ExitStack() as running:
        limiter = 'url = "memory"'
        if mode := LIMITERS[bench.limiter]:
            redis = running.enter_context(bench.redis())
            limiter = f'url = "redis://{redis.address}"\nmode = "{mode}"'
        settings = f"[limiter]\n{limiter}\n" + _callers()
        keypools, _ = running.enter_context(bench.keypools(bench.processes, settings, BEHAVIOUR))
        addresses = [keypool.address for keypool in keypools]
        _warm_up(addresses)
        free, _ = _load(addresses, "unlimited")
        limited, took = _load(addresses, "limited")
    where = f"{bench.processes} processes, {bench.limiter}" if bench.processes > 1 else f"1 process, {bench.limiter}"
    pace = _total(limited) / took
    yield Row(f"calls, {where}", f"{RATE} a second", "", f"{pace:.1f} a second", pace > 0.95 * RATE)
    yield from _decisions(limited)
    yield from _latencies(free, limited)


def _callers():
    """The pool and all virtual keys: each tier with its limits and without, and one that warms up."""
    text = servers.pool("{provider}", servers.secrets(3))
    for tier, limits in TIERS.items():
        settings = {SETTING[name]: limit for name, limit in limits.items()} | {"output_reservation": '"max_tokens"'}
        text += servers.virtual_key(_key("limited", tier), settings, tier)
        text += servers.virtual_key(_key("unlimited", tier), {}, f"{tier}-unlimited")
    high = dict.fromkeys(("input_tpm", "output_tpm"), 1_000_000)
    return text + servers.virtual_key(_key("warm-up", "all"), high, "warm-up")


def _key(kind, tier):
    return f"virtual-key-{kind}-{tier}"


def _warm_up(addresses):
    """Lets each process learn how many input tokens the provider counts."""
    for address in addresses:
        connection = http.client.HTTPConnection(address, timeout=30)
        for _ in range(WARM_UP_CALLS):
            call(connection, _key("warm-up", "all"))
        connection.close()


def _load(addresses, kind):
    """Runs all clients. Returns their calls by tier, and the seconds that it took."""
    clients = [Client(number, addresses) for number in range(CLIENTS)]
    calls = [[] for _ in clients]
    begin = time.monotonic() + 0.1
    threads = [
        threading.Thread(target=client.run, args=(_key(kind, client.tier), begin, mine))
        for client, mine in zip(clients, calls, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    by_tier = collections.defaultdict(list)
    for client, mine in zip(clients, calls, strict=True):
        client.close()
        by_tier[client.tier] += mine
    if _total(by_tier) != CLIENTS * CALLS:
        raise RuntimeError(f"{CLIENTS * CALLS - _total(by_tier)} calls got no response")
    return by_tier, took


def _total(by_tier):
    return sum(map(len, by_tier.values()))


def _decisions(by_tier):
    logs = [ExactLog([call.entry() for call in calls], TIERS[tier], COSTS) for tier, calls in by_tier.items()]

    def count(what):
        return sum(len(getattr(log, what)()) for log in logs)

    refused = [call for calls in by_tier.values() for call in calls if call.status != 200]
    admitted = _total(by_tier) - len(refused)
    beyond = count("admissions_beyond_a_limit")
    yield Row("admitted beyond a limit", "0", "0", f"{beyond} of {admitted}", beyond == 0)
    wrong = count("refusals_with_room")
    unclear = len(refused) - wrong - count("refusals_without_room")
    figures = f"≤ {100 * WRONG_REFUSALS:.0f} %", "0", f"{wrong} of {len(refused)}, {unclear} unclear"
    holds = wrong <= WRONG_REFUSALS * len(refused) and unclear <= UNCLEAR_REFUSALS * len(refused)
    yield Row("refused with room", *figures, holds)
    # A node that refuses without asking says what was left when it asked last, so a few are out of date.
    promised = count("promises_beyond_a_limit")
    stated = f"{promised} of {_total(by_tier)}"
    yield Row("x-ratelimit-remaining above what is left", "", "0", stated, promised <= STALE_HEADERS * _total(by_tier))
    by_dimension = collections.Counter(call.dimension for call in refused)
    for name in SETTING:
        # A limit that nobody meets is not measured.
        yield Row(f"refused for {name}", "", "", f"{by_dimension[name]}", by_dimension[name] > 0)


def _latencies(free, limited):
    """What limits add to the time of an admitted call."""
    without, with_ = (
        sorted(call.ended - call.sent for calls in by_tier.values() for call in calls if call.status == 200)
        for by_tier in (free, limited)
    )
    for what, reference in REFERENCE.items():
        added = (_statistic(with_, what) - _statistic(without, what)) * 1000
        figures = f"{reference} ms (the whole response)", "0 ms", f"{added:.2f} ms"
        yield Row(f"added latency, {what}", *figures, added <= reference)


def _statistic(times, what):
    """The mean of sorted times, or the percentile of that name."""
    if what == "mean":
        return sum(times) / len(times)
    return times[-(-len(times) * int(what.removeprefix("P")) // 100) - 1]
