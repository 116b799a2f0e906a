"""Fixtures for every test: the mock provider, its own gateway, a time limit."""

import itertools
import os
import pathlib
import re
import signal

# SDKs read keys, base URLs, organisations and proxies from the environment, some at import time.
_FOREIGN = re.compile(r"(OPENAI|ANTHROPIC|GEMINI|GOOGLE|TAVILY|ARK|VOLC|KEYPOOL)_.*|.*_PROXY", re.I)
BINARIES = pathlib.Path(os.environ["KEYPOOL_BINARIES"])
for _name in list(os.environ):
    if _FOREIGN.fullmatch(_name):
        del os.environ[_name]

import pytest  # noqa: E402

import harness  # noqa: E402

# No test needs a tenth of this.
SECONDS_PER_TEST = 60


def pytest_collection_modifyitems(items):
    """Runs the search for secrets last, because it reads the output of all other tests."""
    items.sort(key=lambda item: item.path.name == "test_secrets.py")


@pytest.fixture(autouse=True)
def limited_time():
    """Fails a test that hangs, so that its processes are stopped."""

    def too_long(_signal, _frame):
        raise TimeoutError(f"the test took over {SECONDS_PER_TEST} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS_PER_TEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Evidence:
    """Logs and responses of everything that ran, for the search at the end."""

    def __init__(self, directory):
        self.directory = directory
        self._numbers = itertools.count(1)

    def next_name(self):
        return f"gateway-{next(self._numbers)}"

    def keep(self, name, answers):
        (self.directory / f"{name}.answers").write_bytes(answers)

    def files(self):
        """All files with logs or responses."""
        return sorted(p for p in self.directory.iterdir() if p.suffix in (".log", ".answers"))


@pytest.fixture(scope="session")
def evidence(tmp_path_factory):
    return Evidence(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="session")
def running_mock(evidence):
    mock = harness.Mock(BINARIES, evidence.directory)
    yield mock
    mock.process.stop()


@pytest.fixture
def mock(running_mock):
    """The mock provider, reset."""
    running_mock.clear()
    return running_mock


def _serve(mock, evidence, **options):
    name = evidence.next_name()
    text = harness.config(mock.origin, **options)
    gateway = harness.Gateway(BINARIES, evidence.directory, text, name)
    yield gateway
    status = gateway.stop()
    evidence.keep(name, gateway.answers())
    assert status == 0, f"SIGTERM did not stop the gateway cleanly: {status}\n{gateway.process.output()}"


@pytest.fixture
def gateway(mock, evidence):
    """A gateway that requires no virtual key. Its first request uses the first key."""
    yield from _serve(mock, evidence)


@pytest.fixture
def guarded(mock, evidence):
    """A gateway that requires virtual keys."""
    yield from _serve(mock, evidence, virtual_keys=True)
