"""A request as what is asked of the model: its prompts as tokens that fit, and the task whose plan answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from bitzones.data.encoding import positions
from bitzones.models import text_config
from bitzones.serve.answering import Ask, Prompt
from bitzones.serve.http.api_errors import ApiError
from bitzones.serve.http.requests import ChatRequest, CompletionRequest, Generation
from bitzones.serve.limits import Limits
from bitzones.serve.pieces import text_of_tokens
from bitzones.serve.served_model import Routed, ServedModel
from bitzones.serve.switching import BASE

__all__ = ["Asked", "Asking"]

COMPLETION_TOKENS = 16
"""Tokens of a completion unless ``max_tokens`` says otherwise, as in OpenAI's API."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the model, how its task was found, and what the answer calls the model."""

    ask: Ask
    routed: Routed
    model: str


class Asking:
    """Turns requests into what is asked of one model."""

    def __init__(self, served: ServedModel, limits: Limits) -> None:
        self._served, self._limits = served, limits
        room = positions(served.model)
        self.room = limits.tokens if room is None else min(room, limits.tokens)
        """Most tokens of a prompt and its answer."""
        self._vocabulary = text_config.vocabulary(served.model)

    def completion(self, request: CompletionRequest) -> Asked:
        """What a completion asks.

        Raises:
            ApiError: the model or task is unknown, or a prompt is empty, has tokens that do not exist or does not fit.
        """
        task = self._task(request)
        if len(request.prompts) > self._limits.prompts:
            raise ApiError(400, f"prompt has {len(request.prompts)} prompts: at most {self._limits.prompts}", "prompt", "too_many_prompts")
        new = COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
        prompts = tuple(self._prompt(given, new) for given in request.prompts)
        routed = self._routed([prompt.text for prompt in prompts], task)
        return self._asked(request, Ask(prompts, routed.task, request.sampling, request.stops, request.top, bool(request.echo)), routed)

    def chat(self, request: ChatRequest) -> Asked:
        """What a chat asks.

        Raises:
            ApiError: the model or task is unknown, there is no chat template or it refuses the messages, or they do not fit.
        """
        task = self._task(request)
        ids = self._templated(request)
        room = self.room - len(ids)
        limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        self._require_room(len(ids), 1 if limit is None else limit)
        prompt = Prompt(tuple(ids), "", room if limit is None else limit)
        system = "\n".join(message.text for message in request.messages if message.role in {"system", "developer"})
        last = request.messages[-1]
        routed = self._served.route(last.text, task=task, system=system or None, role=last.role)
        return self._asked(request, Ask((prompt,), routed.task, request.sampling, request.stops, request.top), routed)

    def _task(self, request: Generation) -> str | None:
        """The task that is asked for; None for the router's choice.

        Raises:
            ApiError: the model or the task is not there, or two tasks are asked for.
        """
        named, name = request.model or self._served.name, self._served.name
        task = None if named == name else named.removeprefix(f"{name}:")
        if task is not None and (named == task or task not in self._served.tasks):
            raise ApiError(404, "there is no such model: /v1/models lists what is served", "model", "model_not_found")
        if request.task is not None and request.task not in self._served.tasks:
            raise ApiError(400, f"there is no such task: {', '.join(self._served.tasks)}", "task", "task_not_found")
        if None not in {task, request.task} and task != request.task:
            raise ApiError(400, "model and task name two tasks: give one", "task", "task_conflict")
        return task or request.task

    def _prompt(self, given: str | list[int], new: int) -> Prompt:
        if isinstance(given, str):
            ids, text = self._served.tokenizer(given)["input_ids"], given
            if not ids:
                raise ApiError(400, "an empty prompt has no token that the model could start from", "prompt", "empty_prompt")
        else:
            if max(given) >= self._vocabulary:
                raise ApiError(400, f"prompt has a token id beyond the {self._vocabulary:,} of the model", "prompt", "invalid_token")
            ids, text = given, text_of_tokens(self._served.tokenizer, given)
        self._require_room(len(ids), new)
        return Prompt(tuple(ids), text, new)

    def _require_room(self, length: int, new: int) -> None:
        if length + new > self.room:
            raise ApiError(
                400,
                f"the prompt has {length:,} tokens and {new:,} may follow: together at most {self.room:,}",
                code="context_length_exceeded",
            )

    def _templated(self, request: ChatRequest) -> Sequence[int]:
        tokenizer = self._served.tokenizer
        if not tokenizer.chat_template:
            raise ApiError(400, "the model's tokenizer has no chat template: use /v1/completions", "messages", "no_chat_template")
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        try:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise ApiError(400, "the model's chat template does not take these messages", "messages", "chat_template") from error
        ids: Sequence[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ApiError(400, "the messages have no token that the model could start from", "messages", "empty_prompt")
        return ids

    def _routed(self, texts: Sequence[str], task: str | None) -> Routed:
        """The task of all prompts of a request, least sure first; the base plan answers where the router finds several."""
        found = [self._served.route(text, task=task) for text in texts]
        if len({routed.task for routed in found}) > 1:
            return Routed(BASE, "base")
        return min(found, key=lambda routed: 1.0 if routed.confidence is None else routed.confidence)

    def _asked(self, request: Generation, ask: Ask, routed: Routed) -> Asked:
        name = self._served.name
        return Asked(ask, routed, name if len(self._served.tasks) == 1 else f"{name}:{routed.task}")
