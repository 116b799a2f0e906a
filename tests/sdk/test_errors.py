"""Each class of error raises the right exception in each SDK and costs no unnecessary calls."""

import openai
import pytest

import harness
from drivers import ALL, ANSWER, HIDDEN, SDKS

# Ark's usual 404 concerns one key's access to a model; this one concerns the request.
ARK_NOT_FOUND = {
    "status": 404,
    "body": {
        "error": {
            "code": "NotFound",
            "message": "The mock provider has no such thing.",
            "type": "NotFound",
        }
    },
}


def failure_of(driver, status, call, *args, **options):
    """Returns the exception that `call` raises, which must be the SDK's own for `status`."""
    with pytest.raises(driver.raises[status]) as caught:
        call(*args, **options)
    assert driver.status_of(caught.value) == status
    return caught.value


def assert_own(driver, error, code):
    """Checks an error of the gateway's own: its code and its message."""
    assert driver.code_of(error) in (code, HIDDEN)
    assert " " in driver.message_of(error)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_callers_fault_is_relayed_and_never_retried(driver, status, gateway, mock):
    not_found_at_ark = (driver.pool, status) == ("ark", 404)
    mock.fault(driver.pool, ARK_NOT_FOUND if not_found_at_ark else {"refuse": status})
    error = failure_of(driver, status, driver.plain, gateway.url)
    assert "The mock provider" in driver.message_of(error)
    assert mock.calls(driver.pool) == [1, 0, 0]


@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_rate_limited_keys_end_in_429_with_retry_after(driver, gateway, mock):
    mock.fault(driver.pool, {"refuse": 429, "retry_after": 90})
    error = failure_of(driver, 429, driver.plain, gateway.url)
    assert "Rate limit reached" in driver.message_of(error)
    wait = driver.retry_after_of(error)
    assert wait is HIDDEN or 60 < int(wait) <= 90
    assert mock.calls(driver.pool) == [1, 1, 1], "each key once, and no retry by the SDK"


@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_providers_last_error_is_relayed_after_all_attempts(driver, gateway, mock):
    mock.fault(driver.pool, {"refuse": 503})
    error = failure_of(driver, 503, driver.plain, gateway.url)
    assert "overloaded" in driver.message_of(error)
    assert mock.calls(driver.pool) == [2, 2, 2], "two for each key, not repeated by the SDK"


@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_broken_connections_end_in_502(driver, gateway, mock):
    mock.fault(driver.pool, {"reset": True})
    error = failure_of(driver, 502, driver.plain, gateway.url)
    assert_own(driver, error, "upstream_unreachable")
    assert mock.calls(driver.pool) == [2, 2, 2]


@pytest.mark.parametrize("driver", SDKS, ids=repr)
def test_rejected_keys_do_not_blame_the_caller(driver, gateway, mock):
    mock.fault(driver.pool, {"refuse": 401})
    for _ in range(2):
        error = failure_of(driver, 503, driver.plain, gateway.url)
        assert_own(driver, error, "no_key_available")
        assert "3 rejected by the provider" in driver.message_of(error)
        assert driver.retry_after_of(error) is None, "no key returns by itself"
        assert mock.calls(driver.pool) == [1, 1, 1], "a rejected key is not tried again"


@pytest.mark.parametrize("driver", [d for d in ALL if d.pool != "tavily"], ids=repr)
def test_unknown_model_is_404_and_names_the_known_ones(driver, gateway, mock):
    error = failure_of(driver, 404, driver.unknown_model, gateway.url)
    assert_own(driver, error, "model_not_found")
    assert "no-such-model" in driver.message_of(error)
    assert driver.model.split("-")[0] in driver.message_of(error)
    assert mock.recorded() == []


@pytest.mark.parametrize("driver", ALL, ids=repr)
def test_virtual_key_is_accepted_where_the_sdk_puts_it(driver, guarded, mock):
    assert driver.plain(guarded.url, harness.FULL_KEY).startswith(ANSWER)
    assert harness.FULL_KEY not in str(mock.recorded())


@pytest.mark.parametrize("driver", ALL, ids=repr)
def test_wrong_virtual_key_is_an_authentication_error(driver, guarded, mock):
    error = failure_of(driver, 401, driver.plain, guarded.url, harness.WRONG_KEY)
    assert_own(driver, error, "invalid_virtual_key")
    assert mock.recorded() == []


@pytest.mark.parametrize("driver", ALL, ids=repr)
def test_model_or_pool_outside_the_virtual_key_is_forbidden(driver, guarded, mock):
    error = failure_of(driver, 403, driver.plain, guarded.url, harness.NARROW_KEY)
    assert_own(driver, error, "model_not_allowed")
    assert mock.recorded() == []


def test_missing_virtual_key_is_an_authentication_error(guarded, mock):
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="unused")
    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list(extra_headers={"Authorization": openai.Omit()})
    assert caught.value.code == "invalid_virtual_key"
    assert "no virtual key was sent" in str(caught.value)
    assert mock.recorded() == []
