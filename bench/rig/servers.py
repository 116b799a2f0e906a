"""The programs under test: the mock provider, nginx, keypool. Each is a process (tree) that can be pinned to a core."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.request

from . import machine

# The slowest start is under valgrind with 10,000 keys.
STARTED = 120.0
STOPPED = 30.0


class Process:
    """A running program. Its standard error goes to a file."""

    def __init__(self, command, folder, core=None, env=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stderr = self.folder / "stderr.log"
        # Append mode, so that the file stays small after it is emptied.
        with self.stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                # A bare environment: none of the user's keys or proxies.
                env={"PATH": machine.SEARCHED, "HOME": str(self.folder)} | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
            )
        self.name = pathlib.Path(command[0]).name
        self.pid = self._process.pid

    def line(self, pattern):
        """The first match of `pattern` in the lines that it prints from now on."""
        deadline = time.monotonic() + STARTED
        for line in self._process.stdout:
            if found := re.search(pattern, line):
                return found
            if time.monotonic() > deadline:
                break
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n{self.stderr.read_text(errors='replace')[-2000:]}")

    def is_running(self):
        return self._process.poll() is None

    def cpu_seconds(self):
        """User and system time of the process tree so far."""
        return sum(map(_cpu_seconds, self._tree()))

    def peak_mib(self):
        """Peak resident memory of the process tree."""
        return sum(_peak_kib(pid) for pid in self._tree()) / 1024

    def forget_log(self):
        """Empties the standard error file: a log line for each of a million requests would fill the disk."""
        os.truncate(self.stderr, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Stops it with SIGTERM, and after a while with SIGKILL."""
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOPPED)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _tree(self):
        children = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            # A process may exit between listing and reading.
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(folder.name)[1]), []).append(int(folder.name))
        tree = [self.pid]
        for pid in tree:
            tree += children.get(pid, [])
        return tree


def _stat(pid):
    """The fields of /proc/<pid>/stat from the state on."""
    # The name before them, in parentheses, may contain anything.
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_seconds(pid):
    """utime plus stime, but in nanoseconds: the ticks of 10 ms in /proc are too coarse for a run of 1 s."""
    # The id of another process's CPU clock, as clock_getcpuclockid(3) computes it. It includes threads that have ended.
    return time.clock_gettime((~pid << 3) | 2)


def _peak_kib(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))


class Mock(Process):
    """The mock provider and its control API."""

    def __init__(self, binaries, folder, core=None):
        super().__init__([binaries / "keypool-mock", "--no-record"], folder, core)
        self.address = self.line(r"listening on (\S+)").group(1)

    def behave(self, key="*", **behaviour):
        """Sets its behaviour for calls with `key`; "*" stands for all other keys."""
        self._post("behave", {"key": key, "record": False, **behaviour})

    def clear(self):
        """Resets it, still without recording calls."""
        self._post("clear", {})
        self.behave()

    def seen(self):
        """Per key: calls, peak concurrency, responses by status."""
        with urllib.request.urlopen(f"http://{self.address}/_mock/seen", timeout=STOPPED) as answer:
            return json.load(answer)

    def _post(self, action, body):
        data = json.dumps(body).encode()
        urllib.request.urlopen(f"http://{self.address}/_mock/{action}", data, STOPPED).close()


class Keypool(Process):
    """keypool with its defaults: statistics on, one log line per request."""

    def __init__(self, binaries, folder, settings, core=None, wrapper=(), env=None):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "keypool.toml").write_text(settings)
        command = [*wrapper, binaries / "keypool", "serve", "--listen", "127.0.0.1:0"]
        super().__init__(command, folder, core, env)
        self.address = self.line(r"Gateway\s+http://(\S+)").group(1)
        self.line(r"^\s*curl ")


NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    # Bodies stay in memory, whatever their size.
    client_max_body_size 64m;
    client_body_buffer_size 4m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream provider {{
        server {provider};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


class Nginx(Process):
    """nginx as a plain reverse proxy: one worker, keep-alive on both sides, no log, nothing buffered to disk."""

    def __init__(self, folder, provider, core=None):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        # Otherwise its worker drops root and cannot read a private folder.
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(folder=folder, provider=provider, port=port, user=user)
        (folder / "nginx.conf").write_text(text)
        options = ["-e", folder / "error.log", "-c", folder / "nginx.conf", "-p", folder]
        super().__init__([machine.tool("nginx"), *options], folder, core)
        self.address = f"127.0.0.1:{port}"
        self._wait_until_it_answers()

    def _wait_until_it_answers(self):
        deadline = time.monotonic() + STARTED
        while True:
            try:
                urllib.request.urlopen(f"http://{self.address}/v1/models", timeout=STOPPED).close()
                return
            except OSError:
                if not self.is_running() or time.monotonic() > deadline:
                    self.stop()
                    log = (self.folder / "error.log").read_text(errors="replace")
                    raise RuntimeError(f"nginx did not start:\n{log}") from None
                # Nothing signals that it listens, so poll every 20 ms.
                time.sleep(0.02)


class Redis(Process):
    """Redis without persistence."""

    def __init__(self, folder):
        port = free_port()
        options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([machine.tool("redis-server"), *options], folder)
        self.address = f"127.0.0.1:{port}"
        self.line("Ready to accept connections")


def free_port():
    """A free port. nginx and Redis cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def pool(provider_address, keys, more=""):
    """A configuration with one pool of `keys` (secrets) at the mock provider."""
    return f'[pools.bench]\nprovider = "mock"\nbase_url = "http://{provider_address}/v1"\nkeys = {json.dumps(keys)}\n{more}'


def virtual_key(key, limits, name="bench", pools=None):
    """A virtual key of a configuration. `limits`: numbers by setting. `pools`: the only ones that it may use."""
    lines = ["[[virtual_keys]]", f'name = "{name}"', f'key = "{key}"']
    lines += [f"pools = {json.dumps(pools)}"] if pools else []
    return "\n".join([*lines, *(f"{setting} = {limit}" for setting, limit in limits.items())]) + "\n"


def secrets(count):
    return [f"secret-key-{number:05}" for number in range(count)]
