"""OpenAI's SDK and its batch flow: upload, create, poll, download, cancel; and jobs behind its ordinary calls."""

import json
import time

import openai
import pytest

import harness


def client(gateway):
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)


def lines(count, model="openai/m"):
    calls = (
        {
            "custom_id": f"call-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": f"hello {number}"}]},
        }
        for number in range(count)
    )
    return "\n".join(json.dumps(call) for call in calls).encode()


def ended(openai_client, batch):
    deadline = time.monotonic() + 30
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = openai_client.batches.retrieve(batch.id)
    return batch


def created(openai_client, content):
    file = openai_client.files.create(file=("calls.jsonl", content), purpose="batch")
    return openai_client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "one"}
    )


def test_a_batch_is_uploaded_run_and_downloaded(gateway):
    api = client(gateway)
    batch = ended(api, created(api, lines(30)))
    assert batch.status == "completed", batch
    assert (batch.request_counts.total, batch.request_counts.completed) == (30, 30)
    assert batch.metadata == {"run": "one"} and batch.usage.total_tokens > 0
    answers = [json.loads(line) for line in api.files.content(batch.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {f"call-{number}" for number in range(30)}
    for answer in answers:
        said = answer["response"]["body"]["choices"][0]["message"]["content"]
        assert said.endswith(answer["custom_id"].replace("call-", "hello ")), answer
    assert batch.id in [one.id for one in api.batches.list()]
    names = [file.id for file in api.files.list(purpose="batch_output")]
    assert batch.output_file_id in names
    assert api.files.delete(batch.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        api.files.retrieve(batch.output_file_id)


def test_a_file_with_a_mistake_fails_with_its_line(gateway):
    api = client(gateway)
    batch = ended(api, created(api, lines(2) + b"\n{}\n"))
    assert batch.status == "failed"
    assert batch.errors.data[0].line == 3
    with pytest.raises(openai.ConflictError):
        api.batches.cancel(batch.id)


def test_a_batch_is_cancelled(gateway, mock):
    for key in harness.provider_keys("openai"):
        mock.behave(key, latency_ms=2000)
    api = client(gateway)
    batch = created(api, lines(5))
    assert api.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    assert ended(api, batch).status == "cancelled"


def test_a_call_becomes_a_job_and_is_replayed(gateway):
    api = client(gateway)
    messages = [{"role": "user", "content": "hello"}]
    accepted = api.chat.completions.with_raw_response.create(
        model="openai/m", messages=messages, extra_headers={"prefer": "respond-async"}
    )
    assert accepted.status_code == 202
    job = json.loads(accepted.text)
    job = api.get(f"/jobs/{job['id']}?wait=20s", cast_to=object)
    assert job["status"] == "succeeded", job
    answer = api.get(f"/jobs/{job['id']}/response", cast_to=openai.types.chat.ChatCompletion)
    assert answer.choices[0].message.content.endswith("hello")
