"""Failover to another key is invisible to the SDK except for headers; a stream that breaks off raises."""

import anthropic
import openai
import pytest
import volcenginesdkarkruntime as ark
from google import genai

import harness
from drivers import ANSWER, SAID, SDKS, messages, streaming

ONE_KEY_FAILS = {
    "rate-limited": {"refuse": 429, "retry_after": 30},
    "overloaded": {"refuse": 503},
    "rejected": {"refuse": 401},
    "reset": {"reset": True},
}
FORBIDDEN = {"status": 403, "body": "forbidden for this key"}
STREAM_FAILS_AT_ITS_START = {
    "reset": {"reset": True},
    "overloaded": {"refuse": 503},
    "no-event": {"cut_after": 0},
    "half-an-event": {"cut_mid_event": 0},
    "error-event": {
        "in_band_error": {
            "error": {
                "code": 503,
                "message": "busy",
                "type": "overloaded_error",
                "status": "UNAVAILABLE",
            }
        }
    },
}
# In every protocol, the sixth event is in the middle of the text.
STREAM_BREAKS = {
    "between-events": {"cut_after": 6},
    "inside-an-event": {"cut_mid_event": 6},
    "reset": {"reset_mid_body": True},
    "silence": {"stall_after": 6},
}


def case(cases):
    return pytest.mark.parametrize("step", cases.values(), ids=cases.keys())


def first_key_meets(mock, pool, step):
    mock.script(harness.provider_keys(pool)[0], step)


@case(ONE_KEY_FAILS)
@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_next_key_serves_the_call(driver, step, gateway, mock):
    first_key_meets(mock, driver.pool, step)
    assert driver.plain(gateway.url).startswith(ANSWER)
    assert mock.calls(driver.pool) == [1, 1, 0]


@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_403_fails_over_except_for_tavily(driver, gateway, mock):
    first_key_meets(mock, driver.pool, FORBIDDEN)
    if driver.pool == "tavily":
        with pytest.raises(driver.raises[403]):
            driver.plain(gateway.url)
        assert mock.calls(driver.pool) == [1, 0, 0]
    else:
        assert driver.plain(gateway.url).startswith(ANSWER)
        assert mock.calls(driver.pool) == [1, 1, 0]


@pytest.mark.parametrize("driver", streaming(SDKS), ids=repr)
def test_response_that_breaks_before_relay_comes_from_the_next_key(driver, gateway, mock):
    first_key_meets(mock, driver.pool, {"reset_mid_body": True})
    assert driver.plain(gateway.url).startswith(ANSWER)
    assert mock.calls(driver.pool) == [1, 1, 0]


@case(STREAM_FAILS_AT_ITS_START)
@pytest.mark.parametrize("driver", streaming(SDKS), ids=repr)
def test_next_key_serves_a_stream_that_fails_at_its_start(driver, step, gateway, mock):
    first_key_meets(mock, driver.pool, step)
    assert "".join(driver.stream(gateway.url)).startswith(ANSWER)
    assert mock.calls(driver.pool) == [1, 1, 0]


@case(STREAM_BREAKS)
@pytest.mark.parametrize("driver", streaming(SDKS), ids=repr)
def test_stream_that_breaks_off_raises_after_its_text(driver, step, gateway, mock):
    first_key_meets(mock, driver.pool, step)
    pieces = []
    with pytest.raises(driver.broken_stream) as caught:
        driver.stream(gateway.url, into=pieces)
    assert driver.code_of(caught.value) == "upstream_unreachable"
    assert "broke off" in driver.message_of(caught.value)
    came = "".join(pieces)
    assert came and ANSWER.startswith(came), "no event that had come whole is lost"
    assert mock.calls(driver.pool) == [1, 0, 0], "what began is not begun again"


# Attempts and key name, from the response headers that each SDK exposes.


def openai_headers(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="anything") as client:
        calls = client.chat.completions.with_raw_response
        return calls.create(model="gpt-4o-mini", messages=messages()).headers


def anthropic_headers(url):
    with anthropic.Anthropic(base_url=url, api_key="anything") as client:
        calls = client.messages.with_raw_response
        return calls.create(model="claude-haiku-4-5-20251001", max_tokens=9, messages=messages()).headers


def gemini_headers(url):
    options = genai.types.HttpOptions(base_url=url)
    with genai.Client(api_key="anything", http_options=options) as client:
        answer = client.models.generate_content(model="gemini-2.5-flash", contents=SAID)
        return answer.sdk_http_response.headers


def ark_headers(url):
    with ark.Ark(base_url=f"{url}/ark/api/v3", api_key="anything") as client:
        calls = client.chat.completions.with_raw_response
        return calls.create(model="doubao-seed-1-6-250615", messages=messages()).headers


HEADERS = pytest.mark.parametrize(
    ("pool", "headers"),
    [
        ("openai", openai_headers),
        ("anthropic", anthropic_headers),
        ("gemini", gemini_headers),
        ("ark", ark_headers),
    ],
    ids=["openai", "anthropic", "gemini", "ark"],
)


@HEADERS
def test_headers_name_the_keys_in_order(pool, headers, gateway):
    seen = [headers(gateway.url) for _ in range(4)]
    assert [one["x-keypool-key"] for one in seen] == [f"{pool}-{n}" for n in (1, 2, 3, 1)]
    assert {(one["x-keypool-pool"], one["x-keypool-attempts"]) for one in seen} == {(pool, "1")}


@HEADERS
@case(ONE_KEY_FAILS)
def test_headers_give_attempts_and_the_key_that_served(pool, headers, step, gateway, mock):
    first_key_meets(mock, pool, step)
    seen = headers(gateway.url)
    assert (seen["x-keypool-attempts"], seen["x-keypool-key"]) == ("2", f"{pool}-2")


# The SDKs' own retries.


@pytest.mark.parametrize("driver", [d for d in SDKS if repr(d) in ("OpenAiChat", "Anthropic")], ids=repr)
def test_sdk_honours_retry_after_and_its_retry_is_served(driver, gateway, mock):
    for key in harness.provider_keys(driver.pool):
        mock.script(key, {"refuse": 429, "retry_after": 1})
    assert driver.plain(gateway.url).startswith(ANSWER)
    assert sum(mock.calls(driver.pool)) == 4, "three refusals, then one call after the wait"


def test_stored_response_is_never_repeated_once_sent(gateway, mock):
    first_key_meets(mock, "openai", {"reset": True})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="anything") as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(model="gpt-4o-mini", input=SAID)
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
        assert mock.calls("openai") == [1, 0, 0], "neither by the gateway nor by the SDK"
        first_key_meets(mock, "openai", {"answer": True})
        mock.script(harness.provider_keys("openai")[1], {"refuse": 503})
        assert client.responses.create(model="gpt-4o-mini", input=SAID).output_text.startswith(ANSWER)
        assert mock.calls("openai") == [1, 1, 1], "after a status it is known not to have begun"
