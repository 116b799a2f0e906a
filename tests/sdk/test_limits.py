"""Callers at their limits: each SDK raises its own error, and waits as it is told if it retries."""

import collections
import contextlib
import json
import re
import time

import anyio
import openai
import pytest

import harness
from drivers import ANSWER, HIDDEN, SDKS, messages

# How often each SDK retries by itself after a 429, and whether it waits as `Retry-After` says.
RETRIES = {
    "openai": (2, True),
    "anthropic": (2, True),
    "gemini": (0, None),
    "ark": (2, False),
    "tavily": (0, None),
}
WAIT_AS_TOLD = [d for d in SDKS if RETRIES[d.pool][1] and "Responses" not in repr(d)]
# Searches have no tokens.
HAVE_TOKENS = [d for d in SDKS if d.pool != "tavily"]


@contextlib.contextmanager
def recorded_pauses():
    """Pauses of the SDKs last no time. Yields the list of the seconds that they should have lasted."""
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", pauses.append)
        patch.setattr(anyio, "sleep", pause)
        yield pauses


def statuses(gateway):
    """How often the gateway answered with each status."""
    return collections.Counter(map(int, re.findall(rb"HTTP/1\.1 (\d+)", gateway.answers())))


@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_limit_is_a_rate_limit_error_and_retries_wait(driver, guarded, mock):
    assert driver.plain(guarded.url, harness.ONE_A_MINUTE).startswith(ANSWER)
    with recorded_pauses() as pauses, pytest.raises(driver.raises[429]) as caught:
        driver.plain(guarded.url, harness.ONE_A_MINUTE)
    assert driver.status_of(caught.value) == 429
    assert driver.code_of(caught.value) in ("rate_limit_exceeded", HIDDEN)
    message = driver.message_of(caught.value)
    assert '"one-a-minute"' in message and "1 requests a minute" in message
    wait = driver.retry_after_of(caught.value)
    assert wait is HIDDEN or 40 < int(wait) <= 60
    retries, as_told = RETRIES[driver.pool]
    assert statuses(guarded) == {200: 1, 429: 1 + retries}
    assert len(pauses) == retries
    assert all(40 < pause <= 60 for pause in pauses) if as_told else sum(pauses) <= 3, pauses
    assert sum(mock.calls(driver.pool)) == 1, "a refused call reaches no provider"


@pytest.mark.parametrize("driver", WAIT_AS_TOLD, ids=repr)
def test_retry_of_the_sdk_is_served_once_there_is_room(driver, guarded, mock):
    for key in harness.provider_keys("openai"):
        mock.behave(key, chunks=5, chunk_interval_ms=120)
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=harness.ONE_AT_ONCE) as other:
        stream = other.chat.completions.create(model="gpt-4o-mini", messages=messages(), stream=True)
        next(iter(stream))
        began = time.monotonic()
        assert driver.plain(guarded.url, harness.ONE_AT_ONCE).startswith(ANSWER)
        assert time.monotonic() - began >= 1, "Retry-After was 1"
    found = statuses(guarded)
    assert found[200] == 2 and 1 <= found[429] <= 2, "it waited and was served"


@pytest.mark.parametrize("driver", HAVE_TOKENS, ids=repr)
def test_request_that_never_fits_is_a_bad_request_without_retries(driver, guarded, mock):
    with recorded_pauses() as pauses, pytest.raises(driver.raises[400]) as caught:
        driver.plain(guarded.url, harness.ONE_TOKEN)
    assert driver.status_of(caught.value) == 400
    assert driver.code_of(caught.value) == "request_exceeds_limit"
    assert "1 input tokens a minute" in driver.message_of(caught.value)
    assert (statuses(guarded), pauses) == ({400: 1}, [])
    assert mock.recorded() == []


@pytest.mark.parametrize("asks", [False, True], ids=["not-asked", "asked"])
def test_stream_has_a_usage_chunk_only_for_a_client_that_asked(asks, guarded, mock):
    options = {"stream_options": {"include_usage": True}} if asks else {}
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=harness.METERED) as client:
        chunks = list(
            client.chat.completions.create(
                model="gpt-4o-mini", messages=messages(), stream=True, **options
            )
        )
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [asks]
    assert all(chunk.choices for chunk in chunks[: -1 if asks else None]), "no empty chunk is left behind"
    (request,) = mock.recorded()
    assert json.loads(request["body"])["stream_options"] == {"include_usage": True}
