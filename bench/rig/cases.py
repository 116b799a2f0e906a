"""What is measured: one entry per case, with the bounds for its figures."""

import dataclasses
from collections.abc import Mapping

from .figures import Asked

# 50 events with text. With the first, the last and the usage events, a stream has 54.
DENSE = {"chunks": 50}
PACED = {"chunks": 50, "chunk_interval_ms": 10}

# A third of the 30 keys fails, in three different ways.
GOOD_KEYS = [f"good-key-{number:02}" for number in range(20)]
FAILING_KEYS = {
    # Back after each second, and refused again.
    **{f"limited-key-{number}": {"refuse": 429, "retry_after": 1} for number in range(4)},
    # Ejected by the breaker.
    **{f"broken-key-{number}": {"refuse": 503} for number in range(3)},
    # Found invalid at the first call.
    **{f"rejected-key-{number}": {"refuse": 401} for number in range(3)},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Calls as fast as responses arrive, through nginx and keypool alternately."""

    name: str
    title: str
    body: str
    connections: int
    asked: Asked
    keys: int = 1
    # The mock provider's behaviour: fields of its `/_mock/behave`.
    provider: Mapping = dataclasses.field(default_factory=dict)
    # Minimum length of a run, so that it holds many calls.
    seconds: int = 1


SMALL = Case("small", "small call", "small", 64, Asked(1.5, 1.25))
# In this order. The gateway with one key is one process through all cases.
AGAINST_NGINX = [
    SMALL,
    Case("small-20", "small call, 20 keys", "small", 64, Asked(1.5, 1.25), keys=20),
    Case("small-10000", "small call, 10,000 keys", "small", 64, Asked(1.5, 1.25), keys=10_000),
    Case("paced", "stream of 50 chunks, 10 ms apart", "stream", 64, Asked(1.4, 1.2), provider=PACED, seconds=2),
    Case("dense", "stream of 50 chunks, at once", "stream", 64, Asked(2.5, 1.0), provider=DENSE),
    Case("image", "body of 1 MiB", "image", 16, Asked(1.4, 1.2)),
    Case(
        "slow", "provider that takes 50 ms, 256 connections", "small", 256, Asked(1.5, 1.3), provider={"latency_ms": 50}
    ),
]

FAILING = "failing"
FAILING_TITLE = "small call, 10 of 30 keys fail"
FAILING_ASKED = Asked(0.95, at_least=True)

LIMITS = "limits"
LIMITS_TITLE = "small call, a caller with three limits"
# None of them ever refuses a call.
LIMITS_SET = dict.fromkeys(("rpm", "input_tpm", "output_tpm"), 4_000_000_000)
LIMITS_ASKED = Asked(1.05)
LEASED_TITLE = "small call, a caller with three limits, on leases"
LEASED_ASKED = Asked(1.08)

OPEN_LOOP = "open-loop"
OPEN_LOOP_RATE = 1000
OPEN_LOOP_CONNECTIONS = 32
OPEN_LOOP_TITLE = f"small call, {OPEN_LOOP_RATE:,} a second"
# Milliseconds.
OPEN_LOOP_ASKED = Asked(0.25, 0.2)

# MiB.
MEMORY_ASKED = Asked(48, 40)

INSTRUCTIONS = "instructions"
INSTRUCTIONS_TITLE = "small call, 10,000 keys against 1"
INSTRUCTIONS_REQUESTS = 10_000
INSTRUCTIONS_ASKED = Asked(1.05)

NAMES = [case.name for case in AGAINST_NGINX] + [FAILING, LIMITS, OPEN_LOOP, INSTRUCTIONS]
# Left out of a quick run: these take a minute or more.
LONG = [INSTRUCTIONS]
