"""The environment of a measurement: cores, tools and their versions."""

import datetime
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

# The Debian package of each tool.
PACKAGES = {"nginx": "nginx-light", "wrk": "wrk", "valgrind": "valgrind", "redis-server": "redis-server"}
# Where tests/servers/install puts Redis.
SERVERS = pathlib.Path(os.environ.get("KEYPOOL_CACHE") or pathlib.Path.home() / ".cache/keypool") / "servers/bin"
# With the folders that Debian adds for root only.
SEARCHED = f"{SERVERS}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Missing(Exception):
    """A measurement needs something that is not installed; the message says how to get it."""


def tool(name):
    """The path of a program."""
    path = shutil.which(name, path=SEARCHED)
    if path is None:
        raise Missing(f"{name} is not installed: apt-get install {PACKAGES[name]}")
    return path


def require(names):
    """Raises `Missing` with all missing tools at once."""
    packages = [PACKAGES[name] for name in names if shutil.which(name, path=SEARCHED) is None]
    if packages:
        raise Missing(f"missing tools: apt-get install {' '.join(packages)}")


def programs(folder):
    """The folder with our own programs."""
    missing = [name for name in ("keypool", "keypool-mock", "keypool-load") if not (folder / name).is_file()]
    if missing:
        raise Missing(
            f"{', '.join(missing)} not built: cargo build --release --package keypool --package keypool-testkit"
        )
    return folder.resolve()


def ending_tidily():
    """Makes SIGTERM act like an interrupt, so that child processes are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def cores():
    """The core of the gateway, and the core of provider and load. Equal if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[1], allowed[0]) if len(allowed) > 1 else (allowed[0], allowed[0])


def scratch():
    """A temporary folder for a measurement, in memory if possible.

    On a disk, the file system would now and then use the measured core to write the log of 10 MB/s.
    """
    memory = pathlib.Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="keypool-bench-", dir=where)


def describe(binaries, tools):
    """What the measurements ran on, as table rows. `tools`: the tools whose versions to list."""
    gateway, others = cores()
    split = f"gateway on core {gateway}, provider and load on core {others}"
    facts = [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{_memory_mib() / 1024:.0f} GiB"),
        ("system", f"{_system()}, Linux {os.uname().release}"),
        ("cores", split if gateway != others else "ONE core for everything: the figures mean little"),
        ("keypool", f"{_output([binaries / 'keypool', '--version'])}, commit {_commit()}"),
    ]
    return facts + [(name, _version(name)) for name in tools]


def _processor():
    found = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else os.uname().machine


def _memory_mib():
    return int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) / 1024


def _system():
    try:
        release = pathlib.Path("/etc/os-release").read_text()
    except OSError:
        return "unknown system"
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', release, re.MULTILINE)
    return found.group(1) if found else "unknown system"


def _commit():
    here = pathlib.Path(__file__).parent
    commit = _output(["git", "-C", here, "rev-parse", "--short=10", "HEAD"])
    if not commit:
        return "unknown"
    # Results of an earlier run do not change what is measured.
    changed = _output(["git", "-C", here, "status", "--porcelain", "--", ":/", ":(exclude,top)bench/RESULTS.md"])
    return commit + (" with changes" if changed else "")


def _version(name):
    if name == "wrk":
        # wrk has no flag for its version, but its usage text begins with it.
        found = re.search(r"^wrk (?:debian/)?(\S+)", _output([tool(name), "-v"]))
    else:
        found = re.search(r"(\d+\.\d+\S*)", _output([tool(name), "-v" if name == "nginx" else "--version"]))
    return found.group(1) if found else "unknown"


def _output(command):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip() if done.returncode in (0, 1) else ""
