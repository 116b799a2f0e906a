"""Other endpoints of each SDK: model lists, embeddings, token counts, helpers."""

import asyncio
import io

import anthropic
import openai
import pytest
import tavily
import volcenginesdkarkruntime as ark
from google import genai

import harness
from drivers import ANSWER, SAID, messages


@pytest.fixture
def openai_client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="anything") as client:
        yield client


@pytest.fixture
def anthropic_client(gateway):
    with anthropic.Anthropic(base_url=gateway.url, api_key="anything") as client:
        yield client


@pytest.fixture(params=[None, "v1beta"], ids=["default-version", "v1beta"])
def gemini_client(request, gateway):
    options = genai.types.HttpOptions(base_url=gateway.url, api_version=request.param)
    with genai.Client(api_key="anything", http_options=options) as client:
        yield client


@pytest.fixture
def tavily_client(gateway):
    with tavily.TavilyClient(api_key="anything", api_base_url=gateway.url) as client:
        yield client


# OpenAI


def test_openai_models(openai_client):
    listed = {model.id for model in openai_client.models.list()}
    # The models of every pool that can be called in this protocol, filtered by its names and patterns.
    assert {"gpt-4o-mini", "text-embedding-3-small", "doubao-seed-1-6-250615"} <= listed
    assert {"gemini-2.5-flash", "claude-haiku-4-5-20251001", "claude-two-only"} <= listed
    assert "mock-large" not in listed, "no pool serves it"
    assert openai_client.models.retrieve("gpt-4o-mini").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.models.retrieve("mock-large")
    assert caught.value.code == "model_not_found"


def test_openai_models_asynchronously(gateway):
    async def listed():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="anything") as client:
            return [model.id async for model in client.models.list()]

    assert "gpt-4o-mini" in asyncio.run(listed())


@pytest.mark.parametrize(
    "options", [{}, {"encoding_format": "float", "dimensions": 8}], ids=["base64", "float"]
)
def test_openai_embeddings(options, openai_client):
    answer = openai_client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], **options)
    first, second = (one.embedding for one in answer.data)
    assert len(first) == len(second) == options.get("dimensions", len(first)) and len(first) > 1
    assert first != second and all(isinstance(number, float) for number in first)


def test_openai_legacy_completions(openai_client):
    answer = openai_client.completions.create(model="gpt-4o-mini", prompt=SAID)
    assert answer.choices[0].text.startswith(ANSWER)


def test_openai_stream_reports_usage_on_request(openai_client):
    chunks = list(
        openai_client.chat.completions.create(
            model="gpt-4o-mini", messages=messages(), stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.completion_tokens > 0


def test_openai_exposes_the_request_id_of_the_gateway(openai_client):
    answer = openai_client.chat.completions.create(
        model="gpt-4o-mini", messages=messages(), extra_headers={"x-request-id": "my-own-id-1"}
    )
    assert answer._request_id == "my-own-id-1"


def test_openai_responses_stream_ends_with_the_whole_response(openai_client):
    with openai_client.responses.stream(model="gpt-4o-mini", input=SAID) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert final.output_text.startswith(ANSWER) and final.usage.output_tokens > 0


def test_openai_stored_responses_are_found_by_their_id(openai_client):
    for _ in range(3):
        made = openai_client.responses.create(model="gpt-4o-mini", input=SAID)
        assert openai_client.responses.retrieve(made.id).id == made.id
        openai_client.responses.input_items.list(made.id)
        more = openai_client.responses.create(model="gpt-4o-mini", input=SAID, previous_response_id=made.id)
        assert more.previous_response_id == made.id
        openai_client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError, match="no such object"):
            openai_client.responses.retrieve(made.id)


def test_openai_forms_are_routed_by_their_model(openai_client):
    answer = openai_client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"\r\n--model\0" * 9000))
    assert answer.text.startswith(ANSWER.split(".")[0])
    with pytest.raises(openai.NotFoundError, match="nobodys-model"):
        openai_client.audio.transcriptions.create(model="nobodys-model", file=("a.wav", b"RIFF"))


@pytest.mark.parametrize(
    ("model", "pool"),
    [
        ("gpt-4o-mini", "openai"),
        ("claude-haiku-4-5-20251001", "anthropic"),
        ("gemini-2.5-flash", "gemini"),
        ("doubao-seed-1-6-250615", "ark"),
        ("ark/any-endpoint", "ark"),
        ("claude-two-only", "claude-two"),
    ],
)
def test_openai_client_reaches_every_provider_that_speaks_its_protocol(model, pool, openai_client, mock):
    answer = openai_client.chat.completions.create(model=model, messages=messages())
    assert answer.choices[0].message.content.startswith(ANSWER)
    assert answer.model == model.removeprefix("ark/")
    assert mock.calls(pool) == [1, 0, 0]


# Anthropic


def test_anthropic_models(anthropic_client):
    listed = {model.id for model in anthropic_client.models.list()}
    assert {"claude-haiku-4-5-20251001", "claude-two-only"} <= listed
    assert all(model.startswith("claude-") for model in listed)
    assert anthropic_client.models.retrieve("claude-haiku-4-5-20251001").type == "model"
    with pytest.raises(anthropic.NotFoundError) as caught:
        anthropic_client.models.retrieve("claude-none")
    assert caught.value.error_code == "model_not_found"


def test_anthropic_count_tokens(anthropic_client):
    counted = anthropic_client.messages.count_tokens(
        model="claude-haiku-4-5-20251001", messages=messages()
    )
    assert counted.input_tokens > 0


def test_anthropic_stream_helper(anthropic_client):
    with anthropic_client.messages.stream(
        model="claude-haiku-4-5-20251001", max_tokens=100, messages=messages()
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.startswith(ANSWER)
    assert (final.content[0].text, final.stop_reason) == (text, "end_turn")
    assert final.usage.output_tokens > 0


def test_anthropic_stream_helper_asynchronously(gateway):
    async def call():
        async with (
            anthropic.AsyncAnthropic(base_url=gateway.url, api_key="anything") as client,
            client.messages.stream(
                model="claude-haiku-4-5-20251001", max_tokens=100, messages=messages()
            ) as stream,
        ):
            return await stream.get_final_text()

    assert asyncio.run(call()).startswith(ANSWER)


def test_anthropic_stream_helper_raises_if_the_stream_breaks_off(anthropic_client, mock):
    mock.script(harness.provider_keys("anthropic")[0], {"cut_mid_event": 6})
    stream = anthropic_client.messages.stream(
        model="claude-haiku-4-5-20251001", max_tokens=100, messages=messages()
    )
    with pytest.raises(anthropic.APIStatusError) as caught, stream as events:
        events.get_final_message()
    assert caught.value.error_code == "upstream_unreachable"


def test_anthropic_overload_has_its_own_exception(anthropic_client, mock):
    mock.fault("anthropic", {"refuse": 529})
    with pytest.raises(anthropic.OverloadedError):
        anthropic_client.messages.create(
            model="claude-haiku-4-5-20251001", max_tokens=9, messages=messages()
        )
    assert mock.calls("anthropic") == [2, 2, 2]


# Gemini


def test_gemini_models(gemini_client):
    listed = {model.name for model in gemini_client.models.list()}
    assert {"models/gemini-2.5-flash", "models/gemini-embedding-001", "models/gemini-two-only"} <= listed
    assert not any("claude" in name or "gpt" in name for name in listed), "other protocols' models"
    assert gemini_client.models.get(model="gemini-2.5-flash").name == "models/gemini-2.5-flash"
    with pytest.raises(genai.errors.ClientError) as caught:
        gemini_client.models.get(model="gemini-none")
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


def test_gemini_count_tokens(gemini_client):
    assert gemini_client.models.count_tokens(model="gemini-2.5-flash", contents=SAID).total_tokens > 0


def test_gemini_embeddings(gemini_client):
    answer = gemini_client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    first, second = (one.values for one in answer.embeddings)
    assert len(first) == len(second) > 1 and first != second


def test_gemini_chat_keeps_its_history_across_keys(gemini_client, mock):
    chat = gemini_client.chats.create(model="gemini-2.5-flash")
    assert chat.send_message("the first thing said").text
    assert "".join(chunk.text for chunk in chat.send_message_stream(SAID)).startswith(ANSWER)
    assert mock.calls("gemini") == [1, 1, 0]
    assert "the first thing said" in mock.recorded()[-1]["body"]


@pytest.mark.parametrize("base", ["", "/gemini"], ids=["bare", "pool"])
def test_gemini_file_is_uploaded_in_steps_and_used_with_its_key(base, guarded, mock):
    options = genai.types.HttpOptions(base_url=guarded.url + base)
    # More than the SDK sends in one request.
    picture = io.BytesIO(bytes(9 << 20))
    with genai.Client(api_key=harness.FULL_KEY, http_options=options) as client:
        mock.script(harness.provider_keys("gemini")[0], {"refuse": 503})
        file = client.files.upload(file=picture, config={"mime_type": "image/png"})
        assert (file.state.name, file.size_bytes) == ("ACTIVE", 9 << 20)
        assert client.files.get(name=file.name).name == file.name
        answer = client.models.generate_content(model="gemini-2.5-flash", contents=[file, SAID])
        assert answer.text.startswith(ANSWER)
        client.files.delete(name=file.name)
    # The keys of the other pool get no call, though that pool serves files too.
    assert mock.calls("gemini-two") == [0, 0, 0]
    # The first key refuses. The second starts the upload and gets all later calls: start, two pieces, the rest.
    assert mock.calls("gemini") == [1, 6, 0]


# Tavily


def test_tavily_search(tavily_client):
    answer = tavily_client.search(SAID, max_results=2, include_usage=True)
    assert len(answer["results"]) == 2 and answer["usage"] == {"credits": 1}
    assert tavily_client.qna_search(SAID).startswith(ANSWER)


def test_tavily_extract(tavily_client):
    answer = tavily_client.extract(["https://a.invalid", "https://b.invalid"])
    assert [one["url"] for one in answer["results"]] == ["https://a.invalid", "https://b.invalid"]


@pytest.mark.parametrize("method", ["crawl", "map"])
def test_tavily_crawl_and_map(method, tavily_client):
    answer = getattr(tavily_client, method)("https://a.invalid")
    assert answer["base_url"] == "https://a.invalid" and len(answer["results"]) == 2


def test_tavily_asynchronously(gateway):
    async def call():
        client = tavily.AsyncTavilyClient(api_key="anything", api_base_url=gateway.url)
        try:
            return [
                (await client.extract("https://a.invalid"))["results"],
                (await client.crawl("https://a.invalid"))["results"],
                (await client.map("https://a.invalid"))["results"],
            ]
        finally:
            await client.close()

    assert [len(results) for results in asyncio.run(call())] == [1, 2, 2]


def test_tavily_research_is_started_once(tavily_client, mock):
    task = tavily_client.research(SAID)
    assert task["status"] == "pending" and task["request_id"]
    mock.script(harness.provider_keys("tavily")[1], {"reset": True})
    with pytest.raises(Exception, match="502"):
        tavily_client.research(SAID)
    assert mock.calls("tavily") == [1, 1, 0], "a task that may have begun is not begun again"


@pytest.mark.parametrize("status", [432, 433])
def test_tavily_key_without_credits_fails_over(status, tavily_client, mock):
    mock.script(harness.provider_keys("tavily")[0], {"refuse": status})
    assert tavily_client.search(SAID)["results"]
    assert mock.calls("tavily") == [1, 1, 0]


# Ark


@pytest.mark.parametrize("path", ["/ark", "/ark/api/v3", "/v1"])
def test_ark_embeddings(path, gateway, mock):
    with ark.Ark(base_url=f"{gateway.url}{path}", api_key="anything") as client:
        answer = client.embeddings.create(model="doubao-embedding-text-240715", input=["a", "b"])
    first, second = (one.embedding for one in answer.data)
    assert len(first) == len(second) > 1 and first != second
    assert mock.calls("ark") == [1, 0, 0]


def test_ark_allows_three_concurrent_calls_per_key(gateway, mock):
    mock.behave("*", latency_ms=1000)

    async def call():
        async with ark.AsyncArk(base_url=f"{gateway.url}/ark/api/v3", api_key="anything") as client:
            calls = [
                client.chat.completions.create(model="doubao-seed-1-6-250615", messages=messages())
                for _ in range(9)
            ]
            return await asyncio.gather(*calls)

    assert len(asyncio.run(call())) == 9
    assert mock.most_at_once("ark") == [3, 3, 3]


# Addresses in responses


@pytest.mark.parametrize("base", ["", "/anthropic"])
def test_results_of_a_batch_are_fetched_through_the_gateway(gateway, mock, base):
    params = {"model": "claude-haiku-4-5-20251001", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    with anthropic.Anthropic(base_url=gateway.url + base, api_key="anything") as client:
        for batches in (client.messages.batches, client.beta.messages.batches):
            made = batches.create(requests=[{"custom_id": "one", "params": params}])
            assert made.results_url == f"/v1/messages/batches/{made.id}/results"
            assert [result.custom_id for result in batches.results(made.id)] == ["made-up"]
