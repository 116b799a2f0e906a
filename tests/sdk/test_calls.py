"""Every SDK works through the gateway after changing only its base URL and key."""

import pytest

import harness
from drivers import ALL, ANSWER, streaming


@pytest.mark.parametrize("driver", ALL, ids=repr)
def test_plain_call(driver, gateway, mock):
    assert driver.plain(gateway.url).startswith(ANSWER)
    assert mock.calls(driver.pool) == [1, 0, 0]


@pytest.mark.parametrize("driver", streaming(ALL), ids=repr)
def test_stream(driver, gateway, mock):
    pieces = [piece for piece in driver.stream(gateway.url) if piece]
    assert "".join(pieces).startswith(ANSWER)
    assert len(pieces) == 8, "the provider's chunks come one by one"
    assert mock.calls(driver.pool) == [1, 0, 0]


@pytest.mark.parametrize("driver", streaming(ALL), ids=repr)
def test_stream_split_anywhere_on_the_wire_is_reassembled(driver, gateway, mock):
    mock.behave("*", split=3)
    assert "".join(driver.stream(gateway.url)).startswith(ANSWER)


@pytest.mark.parametrize("driver", ALL, ids=repr)
def test_provider_sees_its_own_key_and_not_the_clients(driver, gateway, mock):
    driver.plain(gateway.url, key="what-the-client-sent")
    (request,) = mock.recorded()
    assert request["key"] == harness.provider_keys(driver.pool)[0]
    assert "what-the-client-sent" not in str(request)


@pytest.mark.parametrize("driver", ALL, ids=repr)
def test_keys_rotate(driver, gateway, mock):
    turns = []
    for _ in range(4):
        driver.plain(gateway.url)
        turns.append(mock.calls(driver.pool))
    assert turns == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1]]
