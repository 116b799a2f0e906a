"""Instructions per request, counted by callgrind: a figure that does not depend on how busy the machine is."""

from . import cases, machine, servers
from .figures import Figure, Spread
from .rig import progress


def instructions(rig):
    """With 1 key and with 10,000."""
    rig.mock.behave()
    one, many = (_per_request(rig, keys) for keys in (1, 10_000))
    what = "instructions per request, 1 key = 1"
    note = f"{many:,.0f} against {one:,.0f}: {many / one - 1:+.1%}"
    return [Figure(cases.INSTRUCTIONS_TITLE, what, "×", Spread.of([many / one]), cases.INSTRUCTIONS_ASKED, note)]


def _per_request(rig, keys):
    """The cost of the second 10,000 requests: the start and the first requests are in both counts."""
    requests = cases.INSTRUCTIONS_REQUESTS
    once, twice = (_counted(rig, keys, times * requests) for times in (1, 2))
    progress(f"{keys:,} keys: {(twice - once) / requests:,.0f} instructions per request")
    return (twice - once) / requests


def _counted(rig, keys, requests):
    """Instructions of a keypool process that serves `requests` requests."""
    folder = rig.folder / f"callgrind-{keys}-{requests}"
    counted = folder / "callgrind.out"
    wrapper = [machine.tool("valgrind"), "--tool=callgrind", f"--callgrind-out-file={counted}"]
    settings = servers.pool(rig.mock.address, servers.secrets(keys))
    with servers.Keypool(rig.binaries, folder, settings, rig.core, wrapper) as keypool:
        # One connection: overlapping requests would change the cost of each.
        run = rig.load.count(keypool.address, "small", 1, requests)
    if run["ok"] != requests:
        raise RuntimeError(f"{run['failed']} of {requests} calls failed under valgrind")
    totals = next(line for line in counted.read_text().splitlines() if line.startswith("totals:"))
    return int(totals.split()[1])
