"""The measurements: which programs run side by side, and which figures result."""

from . import cases, servers
from .figures import Figure, Spread, pairs
from .load import CLIENT_KEY
from .rig import progress


def against_nginx(rig, case):
    """CPU time per request of keypool and nginx, measured alternately."""
    rig.mock.behave(**case.provider)
    keypool = rig.keypool(f"keypool-{case.keys}", servers.secrets(case.keys))
    ours, theirs = rig.in_turns(case, keypool, rig.nginx())
    ratio = pairs(_each(ours, "cpu_us"), _each(theirs, "cpu_us"))
    note = f"{_usual(ours, 'cpu_us')} µs against {_usual(theirs, 'cpu_us')} µs; " + _pace(ours, theirs)
    return [Figure(case.title, "CPU per request, nginx = 1", "×", ratio, case.asked, note)]


def against_build(rig, case, binaries):
    """CPU time and pace of this build and of another one, measured alternately."""
    rig.mock.behave(**case.provider)
    secrets = servers.secrets(case.keys)
    other = rig.keypool(f"other-{case.keys}", secrets, binaries)
    ours, theirs = rig.in_turns(case, rig.keypool(f"keypool-{case.keys}", secrets), other)
    cpu = pairs(_each(ours, "cpu_us"), _each(theirs, "cpu_us"))
    note = f"{_usual(ours, 'cpu_us')} µs against {_usual(theirs, 'cpu_us')} µs; " + _pace(ours, theirs)
    return [Figure(case.title, "CPU per request, other build = 1", "×", cpu, None, note)]


def memory_against_build(rig):
    """Peak memory of this build and of the other one, over all cases."""
    peaks = {name: process.peak_mib() for name, process in rig.keypools().items()}
    note = ", ".join(f"{name} {peak:.1f}" for name, peak in peaks.items())
    ours, theirs = (max(peak for name, peak in peaks.items() if name.startswith(of)) for of in ("keypool", "other"))
    return [Figure("the cases above", "peak memory, other build = 1", "×", Spread.of([ours / theirs]), None, note)]


def failing(rig):
    """A pool with a third of its keys failing, against the same pool without those keys."""
    rig.mock.behave()
    for key, fault in cases.FAILING_KEYS.items():
        rig.mock.behave(key, fault=fault)
    third, title = list(cases.FAILING_KEYS), cases.FAILING_TITLE
    # Two good keys, then one that fails, and so on: in practice they are mixed too.
    mixed = [key for n, bad in enumerate(third) for key in (*cases.GOOD_KEYS[2 * n : 2 * n + 2], bad)]
    some, none = rig.in_turns(
        cases.SMALL,
        rig.keypool("keypool-some-fail", mixed),
        rig.keypool("keypool-none-fails", cases.GOOD_KEYS),
    )
    seen = rig.mock.seen()
    if spared := [key for key in third if key not in seen]:
        raise RuntimeError(f"keys that should fail were never called: {spared}")
    pace = pairs(_each(some, "per_second"), _each(none, "per_second"))
    cpu = pairs(_each(some, "cpu_us"), _each(none, "cpu_us"))
    return [
        Figure(title, "throughput, good keys alone = 1", "×", pace, cases.FAILING_ASKED, _pace(some, none)),
        Figure(title, "CPU per request, good keys alone = 1", "×", cpu),
    ]


def limits(rig):
    """A caller with three limits, against a caller with none: counted in the process, and on leases of a Redis."""
    rig.mock.behave()
    secrets = servers.secrets(1)
    limited = servers.virtual_key(CLIENT_KEY, cases.LIMITS_SET)
    leased = limited + f'[limiter]\nurl = "redis://{rig.redis().address}"\nmode = "leased"\n'
    without = rig.keypool("keypool-no-limits", secrets, more=servers.virtual_key(CLIENT_KEY, {}))
    found = []
    for title, name, more, asked in (
        (cases.LIMITS_TITLE, "keypool-limits", limited, cases.LIMITS_ASKED),
        (cases.LEASED_TITLE, "keypool-leased", leased, cases.LEASED_ASKED),
    ):
        some, none = rig.in_turns(cases.SMALL, rig.keypool(name, secrets, more=more), without)
        cpu = pairs(_each(some, "cpu_us"), _each(none, "cpu_us"))
        note = f"{_usual(some, 'cpu_us')} µs against {_usual(none, 'cpu_us')} µs; " + _pace(some, none)
        found.append(Figure(title, "CPU per request, without limits = 1", "×", cpu, asked, note))
    return found


def open_loop(rig):
    """Latency added to that of the bare provider, at a fixed rate. The bare provider runs right before."""
    rig.mock.behave()
    systems = {"bare": rig.mock, "nginx": rig.nginx(), "keypool": rig.keypool("keypool-1", servers.secrets(1))}
    found = {name: [] for name in systems}
    for _ in range(rig.effort.rounds):
        for name, system in systems.items():
            found[name].append(rig.at_a_fixed_rate(system))
        progress("P50: " + ", ".join(f"{name} {runs[-1]['p50_us']:.0f} µs" for name, runs in found.items()))
    return [
        _added(found, "p50_us", "P50", cases.OPEN_LOOP_ASKED),
        _added(found, "p99_us", "P99", None),
    ]


def _added(found, percentile, word, asked):
    def added(name):
        both = zip(found[name], found["bare"], strict=True)
        return Spread.of((through[percentile] - bare[percentile]) / 1000 for through, bare in both)

    runs = [run for of_one in found.values() for run in of_one]
    failed, late = (sum(run[what] for run in runs) for what in ("failed", "late"))
    note = f"nginx adds {added('nginx').median:.3f} ms"
    note += f"; {failed} calls FAILED" if failed else ""
    note += f"; {late} calls began late" if late else ""
    return Figure(cases.OPEN_LOOP_TITLE, f"added latency, {word}", "ms", added("keypool"), asked, note)


def memory(rig):
    """Peak memory of a keypool process over all its cases."""
    peaks = {name: process.peak_mib() for name, process in rig.keypools().items()}
    if not peaks:
        return []
    most = max(peaks.values())
    note = ", ".join(f"{name} {peak:.1f}" for name, peak in peaks.items())
    return [Figure("the cases above", "peak memory", "MiB", Spread.of([most]), cases.MEMORY_ASKED, note)]


def _each(runs, what):
    return [getattr(run, what) for run in runs]


def _usual(runs, what):
    return f"{Spread.of(_each(runs, what)).median:,.0f}"


def _pace(ours, theirs):
    text = f"{_usual(ours, 'per_second')} calls/s against {_usual(theirs, 'per_second')}"
    failed = sum(run.failed for run in ours + theirs)
    return f"{text}; {failed} calls FAILED" if failed else text
