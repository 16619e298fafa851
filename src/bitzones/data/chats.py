"""Conversations as text: the messages of a chat set, written by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bitzones.schema.errors import TaskError

__all__ = ["Chat", "chat_of", "written"]

Chat: TypeAlias = tuple[tuple[str, str], ...]
"""(role, content) of each message."""

KEYS = (("role", "content"), ("from", "value"))
"""What the two usual layouts call the speaker and the text."""

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
"""What the second layout calls the roles."""


def chat_of(messages: Sequence[Any]) -> Chat | None:
    """The messages of a row; None where the value is no list of messages.

    >>> chat_of([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}])
    (('user', 'Hi'), ('assistant', 'Hello'))
    """
    found = [_message(message) for message in messages]
    return tuple(message for message in found if message is not None) if found and None not in found else None


def _message(given: Any) -> tuple[str, str] | None:
    for speaker, content in KEYS:
        if not isinstance(given, Mapping):
            return None
        who, said = given.get(speaker), given.get(content)
        if isinstance(who, str) and isinstance(said, str):
            return ROLES.get(who, who), said
    return None


def written(chat: Chat, tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """A conversation in the words of the tokenizer's chat template, special tokens included.

    Raises:
        TaskError: there is no template, or it refuses the conversation.
    """
    if not tokenizer.chat_template:
        raise TaskError(f"{where} holds conversations, and the tokenizer of the model has no chat template: name a column of plain text")
    try:
        return str(tokenizer.apply_chat_template([{"role": role, "content": content} for role, content in chat], tokenize=False))
    except (TemplateError, ValueError, TypeError) as error:
        raise TaskError(f"{where}: the tokenizer's chat template fails on a conversation: {str(error)[:200]}") from error
