"""What a figure depends on: the cores, the tools and their versions."""

import datetime
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

# Debian's package for each tool.
PACKAGES = {"nginx": "nginx-light", "wrk": "wrk", "valgrind": "valgrind"}
# Where Debian keeps what only root has in its path.
SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Missing(Exception):
    """Something that a measurement needs is not there; the text says how to get it."""


def tool(name):
    """The path of a program."""
    path = shutil.which(name, path=SEARCHED)
    if path is None:
        raise Missing(f"{name} is not installed: apt-get install {PACKAGES[name]}")
    return path


def require(names):
    """Says everything that is missing at once."""
    packages = [PACKAGES[name] for name in names if shutil.which(name, path=SEARCHED) is None]
    if packages:
        raise Missing(f"needed and not installed: apt-get install {' '.join(packages)}")


def programs(folder):
    """The folder with our own programs."""
    missing = [name for name in ("keypool", "keypool-mock", "keypool-load") if not (folder / name).is_file()]
    if missing:
        raise Missing(
            f"{', '.join(missing)} not built: cargo build --release --package keypool --package keypool-testkit"
        )
    return folder.resolve()


def ending_tidily():
    """Lets a SIGTERM end this program as an interrupt does: what it started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def cores():
    """(the core of the gateway, the core of provider and load): the same one where there is no second."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[1], allowed[0]) if len(allowed) > 1 else (allowed[0], allowed[0])


def scratch():
    """A folder for the time of a measurement; in memory where that can be had.

    A disk's file system does its own work on the measured core when a log of 10 MB/s is written, now and then.
    """
    memory = pathlib.Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="keypool-bench-", dir=where)


def describe(binaries, tools):
    """What the measurements ran on, as pairs for a table. `tools`: names whose versions matter."""
    gateway, others = cores()
    split = f"gateway on core {gateway}, provider and load on core {others}"
    facts = [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{_memory_mib() / 1024:.0f} GiB"),
        ("system", f"{_system()}, Linux {os.uname().release}"),
        ("cores", split if gateway != others else "ONE core for everything: read no figure as final"),
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
    # The results of an earlier run are no change of what is measured.
    changed = _output(["git", "-C", here, "status", "--porcelain", "--", ":/", ":(exclude,top)bench/RESULTS.md"])
    return commit + (" and changes" if changed else "")


def _version(name):
    if name == "wrk":
        # It has no flag for that alone; its usage begins with it.
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
