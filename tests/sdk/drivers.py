"""Five SDKs, synchronous and asynchronous, behind one interface, so that one test covers them all.

A driver changes nothing of its SDK but base URL and key. It shows answers as text and exceptions as they are.
"""

import asyncio

import anthropic
import httpx
import openai
import requests
import tavily
import volcenginesdkarkruntime as ark
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from volcenginesdkarkruntime import _exceptions as ark_errors

SAID = "Tell me about key pools"
# The beginning of the mock provider's responses.
ANSWER = f"This answer is made up by keypool's mock provider. You said: {SAID}"


# Marks a value that the SDK does not expose.
HIDDEN = object()


def messages():
    return [{"role": "user", "content": SAID}]


class Driver:
    """The calls that tests make through an SDK. `key` is the client's key."""

    pool = ""
    has_streams = True
    # The SDK's own exceptions: by HTTP status, and for a stream that breaks off.
    raises = {}
    broken_stream = None

    def plain(self, url, key="anything"):
        """Returns the text of the response."""
        raise NotImplementedError

    def stream(self, url, key="anything", into=None):
        """Returns the pieces of text; appends each to `into` as it arrives."""
        raise NotImplementedError

    def unknown_model(self, url):
        """Calls a model that no pool serves."""
        raise NotImplementedError

    def status_of(self, error):
        return error.status_code

    def code_of(self, error):
        """The stable code of one of the gateway's own errors."""
        return error.code

    def message_of(self, error):
        return str(error)

    def retry_after_of(self, error):
        return error.response.headers.get("retry-after")

    def __repr__(self):
        return type(self).__name__


def _by_status(module, prefix="", **changed):
    names = {
        400: "BadRequestError",
        401: "AuthenticationError",
        403: "PermissionDeniedError",
        404: "NotFoundError",
        422: "UnprocessableEntityError",
        429: "RateLimitError",
        500: "InternalServerError",
        502: "InternalServerError",
        503: "InternalServerError",
        504: "InternalServerError",
    }
    classes = {status: getattr(module, prefix + name) for status, name in names.items()}
    return classes | {int(status[1:]): cls for status, cls in changed.items()}


class OpenAiChat(Driver):
    pool = "openai"
    model = "gpt-4o-mini"
    raises = _by_status(openai, _413=openai.APIStatusError)
    broken_stream = openai.APIError

    def client(self, url, key, **options):
        return openai.OpenAI(base_url=f"{url}/v1", api_key=key, **options)

    def plain(self, url, key="anything"):
        with self.client(url, key) as client:
            return self._create(client, self.model).choices[0].message.content

    def unknown_model(self, url):
        with self.client(url, "anything") as client:
            self._create(client, "no-such-model")

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into
        with self.client(url, key) as client:
            for chunk in self._create(client, self.model, stream=True):
                into.extend(choice.delta.content or "" for choice in chunk.choices)
        return into

    def _create(self, client, model, **options):
        return client.chat.completions.create(model=model, messages=messages(), **options)


class OpenAiChatAsync(OpenAiChat):
    def client(self, url, key, **options):
        return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **options)

    def plain(self, url, key="anything"):
        async def call():
            async with self.client(url, key) as client:
                return (await self._create(client, self.model)).choices[0].message.content

        return asyncio.run(call())

    def unknown_model(self, url):
        async def call():
            async with self.client(url, "anything") as client:
                await self._create(client, "no-such-model")

        asyncio.run(call())

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into

        async def call():
            async with self.client(url, key) as client:
                async for chunk in await self._create(client, self.model, stream=True):
                    into.extend(choice.delta.content or "" for choice in chunk.choices)

        asyncio.run(call())
        return into


class OpenAiResponses(OpenAiChat):
    """`store=False`: calls that create an object are never repeated and have their own tests."""

    def plain(self, url, key="anything"):
        with self.client(url, key) as client:
            return self._create(client, self.model).output_text

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into
        with self.client(url, key) as client:
            for event in self._create(client, self.model, stream=True):
                if event.type == "response.output_text.delta":
                    into.append(event.delta)
        return into

    def _create(self, client, model, **options):
        return client.responses.create(model=model, input=SAID, store=False, **options)


class OpenAiResponsesAsync(OpenAiResponses, OpenAiChatAsync):
    def plain(self, url, key="anything"):
        async def call():
            async with self.client(url, key) as client:
                return (await self._create(client, self.model)).output_text

        return asyncio.run(call())

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into

        async def call():
            async with self.client(url, key) as client:
                async for event in await self._create(client, self.model, stream=True):
                    if event.type == "response.output_text.delta":
                        into.append(event.delta)

        asyncio.run(call())
        return into

    unknown_model = OpenAiChatAsync.unknown_model
    client = OpenAiChatAsync.client


class Anthropic(Driver):
    pool = "anthropic"
    model = "claude-haiku-4-5-20251001"
    raises = _by_status(
        anthropic, _413=anthropic.ContentTooLargeError, _503=anthropic.ServiceUnavailableError
    )
    broken_stream = anthropic.APIStatusError

    def client(self, url, key, **options):
        return anthropic.Anthropic(base_url=url, api_key=key, **options)

    def plain(self, url, key="anything"):
        with self.client(url, key) as client:
            return self._create(client, self.model).content[0].text

    def unknown_model(self, url):
        with self.client(url, "anything") as client:
            self._create(client, "no-such-model")

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into
        with self.client(url, key) as client:
            for event in self._create(client, self.model, stream=True):
                if event.type == "content_block_delta":
                    into.append(event.delta.text)
        return into

    def code_of(self, error):
        return error.error_code

    def _create(self, client, model, **options):
        return client.messages.create(model=model, max_tokens=100, messages=messages(), **options)


class AnthropicAsync(Anthropic):
    def client(self, url, key, **options):
        return anthropic.AsyncAnthropic(base_url=url, api_key=key, **options)

    def plain(self, url, key="anything"):
        async def call():
            async with self.client(url, key) as client:
                return (await self._create(client, self.model)).content[0].text

        return asyncio.run(call())

    def unknown_model(self, url):
        async def call():
            async with self.client(url, "anything") as client:
                await self._create(client, "no-such-model")

        asyncio.run(call())

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into

        async def call():
            async with self.client(url, key) as client:
                async for event in await self._create(client, self.model, stream=True):
                    if event.type == "content_block_delta":
                        into.append(event.delta.text)

        asyncio.run(call())
        return into


class Gemini(Driver):
    pool = "gemini"
    model = "gemini-2.5-flash"
    version = None
    raises = {status: genai_errors.ClientError for status in (400, 401, 403, 404, 413, 422, 429)}
    raises |= {status: genai_errors.ServerError for status in (500, 502, 503, 504)}
    broken_stream = genai_errors.ServerError

    def client(self, url, key):
        options = genai_types.HttpOptions(base_url=url, api_version=self.version)
        return genai.Client(api_key=key, http_options=options)

    def plain(self, url, key="anything"):
        with self.client(url, key) as client:
            return client.models.generate_content(model=self.model, contents=SAID).text

    def unknown_model(self, url):
        with self.client(url, "anything") as client:
            client.models.generate_content(model="no-such-model", contents=SAID)

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into
        with self.client(url, key) as client:
            for chunk in client.models.generate_content_stream(model=self.model, contents=SAID):
                into.append(chunk.text)
        return into

    def status_of(self, error):
        return error.code

    def code_of(self, error):
        return error.details["error"]["details"][0]["metadata"]["code"]

    def message_of(self, error):
        return error.message


class GeminiBeta(Gemini):
    version = "v1beta"


class GeminiAsync(Gemini):
    def plain(self, url, key="anything"):
        async def call():
            async with self.client(url, key).aio as client:
                answer = await client.models.generate_content(model=self.model, contents=SAID)
                return answer.text

        return asyncio.run(call())

    def unknown_model(self, url):
        async def call():
            async with self.client(url, "anything").aio as client:
                await client.models.generate_content(model="no-such-model", contents=SAID)

        asyncio.run(call())

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into

        async def call():
            async with self.client(url, key).aio as client:
                chunks = client.models.generate_content_stream(model=self.model, contents=SAID)
                async for chunk in await chunks:
                    into.append(chunk.text)

        asyncio.run(call())
        return into


class Tavily(Driver):
    pool = "tavily"
    has_streams = False
    http_error = requests.HTTPError
    raises = {
        400: tavily.BadRequestError,
        401: tavily.InvalidAPIKeyError,
        403: tavily.errors.ForbiddenError,
        429: tavily.UsageLimitExceededError,
    }
    # For other statuses, this SDK passes on the exception of its HTTP library.
    raises |= {status: requests.HTTPError for status in (404, 413, 422, 500, 502, 503, 504)}

    def plain(self, url, key="anything"):
        with tavily.TavilyClient(api_key=key, api_base_url=url) as client:
            return client.search(SAID, include_answer=True)["answer"]

    def status_of(self, error):
        shown = {cls: status for status, cls in self.raises.items() if cls is not self.http_error}
        return shown.get(type(error)) or error.response.status_code

    def message_of(self, error):
        if isinstance(error, self.http_error):
            return error.response.json()["detail"]["error"]
        return str(error)

    def code_of(self, error):
        # For statuses with an exception class, this SDK exposes only the message.
        if isinstance(error, self.http_error):
            return error.response.json()["detail"]["code"]
        return HIDDEN

    def retry_after_of(self, error):
        if isinstance(error, self.http_error):
            return error.response.headers.get("retry-after")
        return HIDDEN


class TavilyAsync(Tavily):
    http_error = httpx.HTTPStatusError
    raises = Tavily.raises | {
        status: httpx.HTTPStatusError for status in (404, 413, 422, 500, 502, 503, 504)
    }

    def plain(self, url, key="anything"):
        async def call():
            client = tavily.AsyncTavilyClient(api_key=key, api_base_url=url)
            try:
                return (await client.search(SAID, include_answer=True))["answer"]
            finally:
                await client.close()

        return asyncio.run(call())


class Ark(Driver):
    """By the path that its users know: the name of the pool, then the provider's own `/api/v3`."""

    pool = "ark"
    model = "doubao-seed-1-6-250615"
    path = "/ark/api/v3"
    raises = _by_status(ark_errors, prefix="Ark", _413=ark_errors.ArkAPIStatusError)
    broken_stream = ark_errors.ArkAPIError

    def plain(self, url, key="anything"):
        with ark.Ark(base_url=f"{url}{self.path}", api_key=key) as client:
            return self._create(client, self.model).choices[0].message.content

    def unknown_model(self, url):
        # Below the pool's own path, every model goes to the pool; below /v1, the model name decides.
        with ark.Ark(base_url=f"{url}/v1", api_key="anything") as client:
            self._create(client, "no-such-model")

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into
        with ark.Ark(base_url=f"{url}{self.path}", api_key=key) as client:
            for chunk in self._create(client, self.model, stream=True):
                into.extend(choice.delta.content or "" for choice in chunk.choices)
        return into

    def _create(self, client, model, **options):
        return client.chat.completions.create(model=model, messages=messages(), **options)


class ArkShort(Ark):
    path = "/ark"


class ArkByModel(Ark):
    path = "/v1"


class ArkAsync(Ark):
    def plain(self, url, key="anything"):
        async def call():
            async with ark.AsyncArk(base_url=f"{url}{self.path}", api_key=key) as client:
                return (await self._create(client, self.model)).choices[0].message.content

        return asyncio.run(call())

    def unknown_model(self, url):
        async def call():
            async with ark.AsyncArk(base_url=f"{url}/v1", api_key="anything") as client:
                await self._create(client, "no-such-model")

        asyncio.run(call())

    def stream(self, url, key="anything", into=None):
        into = [] if into is None else into

        async def call():
            async with ark.AsyncArk(base_url=f"{url}{self.path}", api_key=key) as client:
                async for chunk in await self._create(client, self.model, stream=True):
                    into.extend(choice.delta.content or "" for choice in chunk.choices)

        asyncio.run(call())
        return into


# Every SDK and kind of client; then those that differ only in the path.
SDKS = [
    OpenAiChat(),
    OpenAiChatAsync(),
    OpenAiResponses(),
    OpenAiResponsesAsync(),
    Anthropic(),
    AnthropicAsync(),
    Gemini(),
    GeminiAsync(),
    Tavily(),
    TavilyAsync(),
    Ark(),
    ArkAsync(),
]
ALL = [*SDKS, GeminiBeta(), ArkShort(), ArkByModel()]


def streaming(drivers):
    return [driver for driver in drivers if driver.has_streams]
