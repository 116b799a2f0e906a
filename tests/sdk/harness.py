"""The programs under test as processes: the mock provider, the gateway, and a tap that records its responses.

Nothing in here knows an SDK.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

# Generous, because the machine may be busy. Nothing waits this long unless a test fails.
DEADLINE = 20.0

# pool: (provider, path of its base URL, model names; None for the provider's own)
POOLS = {
    "openai": ("openai", "/v1", None),
    "anthropic": ("anthropic", "", None),
    "gemini": ("gemini", "", None),
    "tavily": ("tavily", "", None),
    "ark": ("ark", "/api/v3", None),
    # A second pool per protocol: with only one, it would serve every model name.
    "claude-two": ("anthropic", "", ["claude-two-only"]),
    "gemini-two": ("gemini", "", ["gemini-two-only"]),
}

ADMIN_TOKEN = "canary-admin-token-5d1f0e7a9b"
FULL_KEY = "canary-virtual-full-77c1a2f4d0"
NARROW_KEY = "canary-virtual-narrow-1b9e83c6aa"
WRONG_KEY = "canary-virtual-wrong-4e02dd91f7"

# Callers with limits: name, virtual key, limits.
ONE_A_MINUTE = "canary-virtual-one-a-minute-c0417be2"
ONE_AT_ONCE = "canary-virtual-one-at-once-92ad6f38"
ONE_TOKEN = "canary-virtual-one-token-5b70e1d4"
METERED = "canary-virtual-metered-e83c19f6"
LIMITED = [
    ("one-a-minute", ONE_A_MINUTE, "rpm = 1"),
    ("one-at-once", ONE_AT_ONCE, "max_concurrent = 1"),
    ("one-token", ONE_TOKEN, "input_tpm = 1"),
    ("metered", METERED, "output_tpm = 100_000"),
]


def provider_keys(pool):
    """The three keys of a pool, in order."""
    return [f"canary-{pool}-key{n}-9f3b6c" for n in (1, 2, 3)]


SECRETS = [ADMIN_TOKEN, FULL_KEY, NARROW_KEY, WRONG_KEY]
SECRETS += [key for pool in POOLS for key in provider_keys(pool)]
SECRETS += [key for _, key, _ in LIMITED]


def config(mock_origin, virtual_keys=False):
    """A configuration file: all pools at the mock provider, with short waits."""
    parts = ['[log]\nlevel = "trace"\n', f'[admin]\ntoken = "{ADMIN_TOKEN}"\n']
    for pool, (provider, path, models) in POOLS.items():
        parts.append(
            f'[pools.{pool}]\nprovider = "{provider}"\nbase_url = "{mock_origin}{path}"\n'
            f"keys = {json.dumps(provider_keys(pool))}\n"
            + (f"models = {json.dumps(models)}\n" if models else "")
            + f'[pools.{pool}.retry]\nbackoff = "10ms"\n'
            f'[pools.{pool}.queue]\ntimeout = "300ms"\n'
            f'[pools.{pool}.timeouts]\nidle = "500ms"\n'
        )
    if virtual_keys:
        parts.append(f'[[virtual_keys]]\nname = "full"\nkey = "{FULL_KEY}"\nnative = true\n')
        # May use one pool only, and there a model that no test calls.
        parts.append(
            f'[[virtual_keys]]\nname = "narrow"\nkey = "{NARROW_KEY}"\n'
            'pools = ["openai"]\nmodels = ["gpt-4.1"]\n'
        )
        parts += [f'[[virtual_keys]]\nname = "{name}"\nkey = "{key}"\n{limits}\n' for name, key, limits in LIMITED]
    return "\n".join(parts)


class Process:
    """A program whose output goes to a file, and line by line to `wait_for`."""

    def __init__(self, command, directory, log):
        self.log = pathlib.Path(log)
        # A bare environment: none of the user's provider keys, base URLs or proxies.
        env = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory)}
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._lines = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.log.open("wb") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                with self._changed:
                    self._lines.append(line.decode("utf-8", "replace"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern):
        """The first match of `pattern` in its output."""
        expression = re.compile(pattern)

        def found():
            return next(filter(None, map(expression.search, self._lines)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, DEADLINE)
            match = found()
        assert match, f"no line like {pattern!r}:\n{self.output()}"
        return match

    def output(self):
        """Its output so far."""
        with self._changed:
            return "".join(self._lines)

    def stop(self):
        """Sends SIGTERM; the exit status, negative for a signal."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = "killed: it did not end by itself"
        self._reader.join(DEADLINE)
        self._process.stdout.close()
        return status


class Mock:
    """The mock provider and its control API."""

    def __init__(self, binaries, directory):
        self.process = Process([binaries / "keypool-mock"], directory, directory / "mock.log")
        self.origin = "http://" + self.process.wait_for(r"listening on (\S+)").group(1)

    def _call(self, action, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.origin}/_mock/{action}", data, DEADLINE) as answer:
            return json.load(answer)

    def clear(self):
        self._call("clear", {})

    def behave(self, key, **behaviour):
        self._call("behave", {"key": key, **behaviour})

    def script(self, key, *steps):
        """Sets the behaviour for the next requests with `key`, one step each."""
        self._call("script", {"key": key, "steps": list(steps)})

    def fault(self, pool, step):
        """Sets the behaviour for all calls with any key of `pool`."""
        for key in provider_keys(pool):
            self.behave(key, fault=step)

    def calls(self, pool):
        """The number of calls with each key of the pool."""
        return self._seen(pool, "requests")

    def most_at_once(self, pool):
        """The peak concurrency of each key of the pool."""
        return self._seen(pool, "max_active")

    def _seen(self, pool, what):
        seen = self._call("seen")
        return [seen.get(key, {}).get(what, 0) for key in provider_keys(pool)]

    def recorded(self):
        return self._call("recorded")


class Tap:
    """Passes bytes between clients and the gateway, and records every byte that the gateway sends."""

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._answers = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                gateway = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            kept = bytearray()
            self._answers.append(kept)
            threading.Thread(target=_relay, args=(client, gateway, kept), daemon=True).start()

    def answers(self):
        """Everything the gateway sent, connection by connection."""
        return b"\n".join(bytes(kept) for kept in self._answers)

    def close(self):
        # A plain close would not wake the accepting thread.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _relay(client, gateway, kept):
    with client, gateway:
        there = threading.Thread(target=_pump, args=(client, gateway, None), daemon=True)
        there.start()
        _pump(gateway, client, kept)
        there.join()


def _pump(from_, to, keep):
    try:
        while piece := from_.recv(65536):
            if keep is not None:
                keep += piece
            to.sendall(piece)
    except OSError:
        pass
    for end, how in [(from_, socket.SHUT_RD), (to, socket.SHUT_WR)]:
        try:
            end.shutdown(how)
        except OSError:
            pass


class Gateway:
    """The gateway behind a tap. SDKs call `url`."""

    def __init__(self, binaries, directory, text, name):
        # A folder of its own: what its store knows of keys must not reach the next gateway.
        folder = directory / name
        folder.mkdir()
        file = folder / "keypool.toml"
        file.write_text(text)
        command = [binaries / "keypool", "serve", "--config", file, "--listen", "127.0.0.1:0"]
        self.process = Process(command, folder, directory / f"{name}.log")
        origin = self.process.wait_for(r"^\s*Gateway\s+http://(\S+)$").group(1)
        host, port = origin.rsplit(":", 1)
        self.direct = f"http://{origin}"
        self._tap = Tap((host, int(port)))
        self.url = self._tap.origin
        self._status = None
        self._wait_until_ready()

    def _wait_until_ready(self):
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                with urllib.request.urlopen(f"{self.direct}/readyz", timeout=DEADLINE) as answer:
                    assert answer.status == 200
                    return
            except ConnectionError:
                assert time.monotonic() < deadline, self.process.output()

    def answers(self):
        return self._tap.answers()

    def stop(self):
        """Sends SIGTERM; the exit status, also when asked again."""
        if self._status is None:
            self._status = self.process.stop()
            self._tap.close()
        return self._status
