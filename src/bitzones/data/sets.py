"""The three sets of sequences of a run: for sensitivities, for judging whole plans (held out), and for calibrated formats.

They come from the profile's texts where it names any, else from the train splits of its tasks, in an order that does not depend on which
set is asked for first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Literal, TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data import encoding, sequences, tasks, text
from bitzones.data.sequences import Sequences, SequenceSet
from bitzones.data.tasks import TaskSet
from bitzones.models import structure
from bitzones.schema.errors import TaskError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import TextSet

__all__ = ["SequenceSets", "SetName", "check_tokens"]

SetName: TypeAlias = Literal["sensitivity", "held_out", "calibration"]


class SequenceSets:
    """Takes each set when it is first asked for.

    Args:
        profile: says how many tokens each set has and where they come from.
        tokenizer: of the model.
        scored: the items that accuracy is measured on, which are in no set.
        model: says how long a sequence may be, and how many tokens calibrated formats need.
        given: texts in memory by the set that the profile names them for, in place of what the profile names.
        notify: told, in a line, how many items were too long for the model.
    """

    def __init__(
        self,
        profile: Profile,
        tokenizer: PreTrainedTokenizerBase,
        scored: Mapping[str, TaskSet],
        model: PreTrainedModel,
        given: Mapping[str, text.Texts],
        notify: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._notify = notify
        self._profile = profile
        self._tokenizer = tokenizer
        self._model = model
        self._given = given
        self._prompts = {item.prompt for task in scored.values() for item in (*task.items, *task.shots)}
        self.texts: dict[SetName, TextSet] = {}
        """What was read for each set that was cut from texts."""

    @cached_property
    def sensitivity(self) -> SequenceSet:
        """What sensitivities are measured on and plans are made from."""
        return self._take("sensitivity", self._profile.sensitivity.tokens, "sensitivity.tokens")

    @cached_property
    def held_out(self) -> SequenceSet:
        """What whole plans are judged on."""
        _ = self.sensitivity  # taken first, so that both are the same whatever is asked for first
        return self._take("held_out", self._profile.held_out.tokens, "held_out.tokens")

    @cached_property
    def calibration(self) -> SequenceSet:
        """What calibrated formats choose their integers on.

        Raises:
            TaskError: there are too few tokens for the widest module, or for the profile.
        """
        _ = self.held_out  # taken first, as above
        taken = self._take("calibration", self._profile.calibration.tokens, "calibration.tokens")
        check_tokens(self._model, sum(taken.sequence_tokens))
        others = {sequence.ids for other in (self.sensitivity, self.held_out) for sequence in other.sequences}
        assert others.isdisjoint(sequence.ids for sequence in taken.sequences), "what is rounded on is measured on"
        return taken

    def check(self) -> None:
        """Take what the run will need, so that too little text is refused before anything is measured.

        Raises:
            TaskError: a source cannot be read, or holds too few tokens.
        """
        if self._profile.text is not None:
            _ = self.held_out
        if any(map(is_calibrated, self._profile.formats)):
            _ = self.calibration

    def _take(self, name: SetName, tokens: int, key: str) -> SequenceSet:
        if self._profile.text is None:
            return self._take_items(tokens, key)
        source = self._calibration_text if name == "calibration" else self._sensitivity_text
        taken, self.texts[name] = self._dealer.take(source, tokens, key)
        return taken

    def _take_items(self, tokens: int, key: str) -> SequenceSet:
        taken = sequences.take(self._from_tasks, tokens, key)
        if taken.passed_over:
            room = self._from_tasks.room
            self._notify(f"{key}: train items passed over: {taken.passed_over}, longer than the model's {room} positions")
        return taken

    @cached_property
    def _from_tasks(self) -> Sequences:
        """What is left of the train splits, without what is scored and without what stands before it."""
        train = [tasks.training(task.name, task.path) for task in self._profile.tasks]
        return sequences.sequences(self._tokenizer, train, self._prompts, encoding.positions(self._model))

    @cached_property
    def _dealer(self) -> text.Dealer:
        assert self._profile.text is not None
        room = encoding.positions(self._model)
        return text.Dealer(self._tokenizer, self._profile.text.sequence_tokens, room, self._prompts)

    @cached_property
    def _sensitivity_text(self) -> text.Documents:
        assert self._profile.text is not None
        return self._opened("sensitivity", self._profile.text.sensitivity)

    @cached_property
    def _calibration_text(self) -> text.Documents:
        """What the other sets have left, where nothing of its own is named."""
        assert self._profile.text is not None
        named = self._profile.text.calibration
        return self._sensitivity_text if named is None else self._opened("calibration", named)

    def _opened(self, name: SetName, named: str) -> text.Documents:
        settings = self._profile.text
        assert settings is not None
        return text.opened(self._given.get(name, named), settings.column, settings.split)


def check_tokens(model: PreTrainedModel, tokens: int) -> None:
    """Refuse sequences that are too few for a module whose inputs they all are.

    Raises:
        TaskError: the message says how many are needed.
    """
    width, name = max((model.get_parameter(f"{name}.weight").shape[1], name) for name in structure.quantizable_modules(model))
    if tokens < width:
        raise TaskError(
            f"calibration.tokens: {name} has {width} input features and {tokens} tokens to be calibrated on: give at least {width}"
        )
