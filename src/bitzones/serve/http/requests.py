"""What may be asked: the bodies of OpenAI's completions and chat, strictly typed and bounded.

A key that this server cannot honor is refused unless it asks for nothing, so that no answer silently differs from what was asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bitzones.serve.decoding import Sampling

__all__ = ["ChatRequest", "CompletionRequest", "Generation", "Message", "StreamOptions", "TextPart"]

MOST_LOGPROBS = 20
"""Most alternatives per token: OpenAI's limit."""

MOST_IDS = 1 << 20
"""Token ids in a list: more than a body of the default size can hold; the model's own limit is asked later."""

Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(max_length=512)]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[int, Field(ge=1, le=1)]


class StreamOptions(BaseModel):
    """``include_usage``: a last chunk with the numbers of tokens."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding against traffic analysis, which this server never sends; the client of OpenAI may ask for none."""


class Generation(BaseModel):
    """What completions and chat have in common. Null is the default, as in OpenAI's API."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    model: Name | None = None
    task: Name | None = None
    """The task whose plan is to answer; bitzones' own key."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    return_tokens_as_token_ids: bool = False
    """Tokens in log-probabilities as ``token_id:123``, as in vLLM."""
    n: One | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen; temperature 1 unless asked otherwise, as in OpenAI's API."""
        return Sampling(1.0 if self.temperature is None else self.temperature, 1.0 if self.top_p is None else self.top_p, self.seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Generation):
    """The body of ``/v1/completions``."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, fail_fast=True)]
    )
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    best_of: One | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None

    @property
    def prompts(self) -> tuple[str | list[int], ...]:
        """The prompts, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        ids = [token for token in self.prompt if isinstance(token, int)]
        return (ids,) if ids else tuple(prompt for prompt in self.prompt if not isinstance(prompt, int))

    @property
    def top(self) -> int | None:
        """How many alternatives per token are asked for; None for no log-probabilities at all."""
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: Name | None = None
    tool_call_id: Name | None = None

    @property
    def text(self) -> str:
        """What is said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def top(self) -> int | None:
        """How many alternatives per token are asked for; None for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None
