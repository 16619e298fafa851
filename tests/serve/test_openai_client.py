"""OpenAI's own client as the peer: what it sends is understood, and what it gets fits its types."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_served import OTHER, two_plans

from bitzones.serve.http import running

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed")

KEY = "key-1"
MESSAGES = [{"role": "user", "content": "Tom has 3 pens. He buys"}]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with running(two_plans(), api_key=KEY) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as asking:
        yield asking


def test_completions_are_read(client: openai.OpenAI) -> None:
    asked = {"model": f"pair:{OTHER}", "prompt": "Tom has", "max_tokens": 4, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**asked)
    streamed = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert whole.model == f"pair:{OTHER}"
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == whole.choices[0].text
    assert streamed[-1].usage == whole.usage
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens) == whole.usage.completion_tokens
    assert all(logprob <= 0 for logprob in logprobs.token_logprobs)


def test_chats_are_read(client: openai.OpenAI) -> None:
    asked = {"model": "pair", "messages": MESSAGES, "max_completion_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked)
    streamed = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole.choices[0].message.content
    assert [len(entry.top_logprobs) for entry in whole.choices[0].logprobs.content] == [3] * whole.usage.completion_tokens


def test_models_are_read(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pair", "pair:base", f"pair:{OTHER}"]
    assert client.models.retrieve("pair").owned_by == "bitzones"


def test_errors_are_read_as_what_they_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="pair", prompt="Tom", max_tokens=-1)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "max_tokens")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="Tom")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
