"""No key appears in any log or response: not if a provider quotes it, and not in the output of all other tests."""

import re
import urllib.error
import urllib.request

import pytest

import harness
from drivers import ALL, ANSWER

FIRST_OF_EACH_POOL = list({driver.pool: driver for driver in reversed(ALL)}.values())


def leaks(texts):
    """The secrets found in the named texts, verbatim or split by chunk headers."""
    frame = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")
    both = {name: text + b"\n" + frame.sub(b"", text) for name, text in texts.items()}
    return [
        f"{secret} in {name}"
        for name in both
        for secret in harness.SECRETS
        if secret.encode() in both[name]
    ]


def quoting(key):
    """A refusal that quotes the key, as some providers send it, in every error format at once."""
    words = f"Incorrect API key provided: {key}. Key {key} is not valid."
    error = {
        "code": "invalid_api_key",
        "message": words,
        "type": "authentication_error",
        "status": "UNAUTHENTICATED",
    }
    return {
        "status": 401,
        "headers": {"x-seen-key": "none"},
        "body": {"error": error, "detail": {"error": words}},
    }


@pytest.mark.parametrize("driver", FIRST_OF_EACH_POOL, ids=repr)
def test_key_quoted_by_a_provider_is_not_relayed(driver, gateway, mock):
    for key in harness.provider_keys(driver.pool):
        mock.script(key, quoting(key))
    with pytest.raises(driver.raises[503]):
        driver.plain(gateway.url)
    assert mock.calls(driver.pool) == [1, 1, 1]
    assert "Incorrect API key provided" in gateway.process.output(), "the log tells the provider's words"
    assert leaks({"log": gateway.process.output().encode(), "answers": gateway.answers()}) == []


def ask(url, key):
    """Returns the status of a GET with `key` as the bearer token."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_query_credentials_and_statistics_show_no_key(guarded):
    assert ask(f"{guarded.url}/v1/models?key={harness.WRONG_KEY}", harness.WRONG_KEY) == 401
    assert ask(f"{guarded.url}/v1/models?key={harness.FULL_KEY}", harness.WRONG_KEY) == 200
    assert ask(f"{guarded.url}/api/keys/stats", harness.ADMIN_TOKEN) == 200
    assert ask(f"{guarded.url}/api/keys/stats", harness.FULL_KEY) == 401
    assert b'"openai-1"' in guarded.answers()
    assert leaks({"log": guarded.process.output().encode(), "answers": guarded.answers()}) == []


def test_no_output_of_any_test_shows_a_key(gateway, mock, evidence):
    # At least one call, so that this test checks something when run alone.
    assert ALL[0].plain(gateway.url).startswith(ANSWER)
    assert gateway.stop() == 0
    evidence.keep("last", gateway.answers())
    read = {file.name: file.read_bytes() for file in evidence.files()}
    assert ANSWER.encode() in read["last.answers"]
    assert any(b"status=200" in text for name, text in read.items() if name.endswith(".log"))
    assert leaks(read) == []
