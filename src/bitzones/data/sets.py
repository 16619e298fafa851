"""The sequences of a run: domains, and sets for sensitivities, for judging whole plans (held out), for calibrated formats and for tuning.

They come from the sources that the profile names, else from the train splits of its tasks, in an order that does not depend on which set
is asked for first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data import encoding, mixtures
from bitzones.data.dealing import Taken
from bitzones.data.mixtures import Mixer, Writer
from bitzones.data.sequences import SequenceSet
from bitzones.data.tasks import ScoredTask
from bitzones.data.text import Texts
from bitzones.models import structure
from bitzones.schema import slices, text_sources
from bitzones.schema.errors import TaskError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import TextSet
from bitzones.schema.text_settings import TASKS, Domain
from bitzones.schema.text_sources import SETS, SetName

__all__ = ["DomainSet", "SequenceSets", "SetName", "check_tokens"]


@dataclass(frozen=True)
class DomainSet:
    """The windows of one domain, and what was read for them."""

    domain: Domain
    windows: SequenceSet
    record: TextSet


class SequenceSets:
    """Takes each set when it is first asked for.

    Args:
        profile: says how many tokens each set has and where they come from.
        tokenizer: of the model.
        scored: the items that accuracy is measured on, which are in no set.
        model: says how long a sequence may be, and how many tokens calibrated formats need.
        given: texts in memory by the name that the profile has for them.
        notify: told, in a line, how many items were too long for the model.
        writer: gives text of the reference.
    """

    def __init__(
        self,
        profile: Profile,
        tokenizer: PreTrainedTokenizerBase,
        scored: Mapping[str, ScoredTask],
        model: PreTrainedModel,
        given: Mapping[str, Texts],
        notify: Callable[[str], None] = lambda message: None,
        writer: Writer | None = None,
    ) -> None:
        self._notify = notify
        self._profile = profile
        self._model = model
        self._mixer = Mixer(profile, tokenizer, model, scored, given, writer)
        self._taken_by: dict[str, str] = {}
        self.texts: dict[SetName, TextSet] = {}
        """What was read for each set."""

    @cached_property
    def domains(self) -> dict[str, DomainSet]:
        """Domain -> its windows, and from where in them predictions are scored.

        Raises:
            TaskError: a source cannot be read, or holds too few tokens.
        """
        found = {}
        for domain in self._profile.domains:
            taken = self._mixer.domain(domain)
            windows, record = mixtures.joined([taken], domain.window)
            self._require_apart(f"domain {domain.name}", [taken])
            found[domain.name] = DomainSet(domain, windows, record)
        return found

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

    @cached_property
    def tuning(self) -> SequenceSet:
        """What a plan is tuned on, its validation split included.

        Raises:
            TaskError: there is too little text.
        """
        settings = self._profile.tuning
        assert settings is not None, "the profile tunes nothing"
        if any(map(is_calibrated, self._profile.formats)):
            _ = self.calibration
        _ = self.held_out  # both taken first, as above
        return self._take("tuning", settings.tokens, "tuning.tokens")

    def check(self) -> None:
        """Take what the run will need, so that too little text is refused before anything is measured.

        Raises:
            TaskError: a source cannot be read, or holds too few tokens.
        """
        if any(source.source == TASKS for name in SETS for source in text_sources.sources(self._profile, name)):
            self._mixer.require_train_split()
        if text_sources.reads_text(self._profile) or self._profile.plans.by is not None:
            _ = self.held_out
        if any(map(is_calibrated, self._profile.formats)):
            _ = self.calibration
        if self._profile.tuning is not None:
            _ = self.tuning

    def _take(self, name: SetName, tokens: int, key: str) -> SequenceSet:
        _ = self.domains  # taken first, so that they are the same whatever sets there are
        by_slice = name in slices.SETS_BY_SLICE
        parts, passed_over = self._mixer.take(text_sources.sources(self._profile, name), tokens, key, by_slice=by_slice)
        if passed_over:
            room = encoding.positions(self._model)
            self._notify(f"{key}: train items passed over: {passed_over}, longer than the model's {room} positions")
        taken, self.texts[name] = mixtures.joined(parts, self._longest(parts), passed_over)
        self._require_apart(name, parts)
        if by_slice and (places := self._places(name, taken)):
            counts = ", ".join(f"{slice_} {len(found)}" for slice_, found in places.items())
            self._notify(f"{key}: {sum(taken.sequence_tokens):,} tokens; sequences by {self._profile.plans.by}: {counts}")
        return taken

    def by_slice(self, name: Literal["sensitivity", "held_out"]) -> dict[str, tuple[int, ...]]:
        """Slice -> the places of its sequences in a set; none where the profile makes one plan only."""
        return self._places(name, self.sensitivity if name == "sensitivity" else self.held_out)

    def strata(self, name: Literal["sensitivity", "held_out"]) -> tuple[str, ...]:
        """The source and the task of each sequence of a set, which holds the sequences of one source after those of another."""
        chosen = self.sensitivity if name == "sensitivity" else self.held_out
        sources = [source for source, part in enumerate(self.texts[name].parts) for _ in range(part.sequences)]
        return tuple(f"{source} {sequence.task}" for source, sequence in zip(sources, chosen.sequences, strict=True))

    def _places(self, name: SetName, chosen: SequenceSet) -> dict[str, tuple[int, ...]]:
        if self._profile.plans.by is None:
            return {}
        if self._profile.plans.by == "task":
            of = [sequence.task for sequence in chosen.sequences]
        else:  # a set holds the sequences of one source after those of another
            sources = text_sources.sources(self._profile, name)
            counts = [part.sequences for part in self.texts[name].parts]
            of = [slices.domain_name(self._profile, source) for source, count in zip(sources, counts, strict=True) for _ in range(count)]
        return {slice_: tuple(n for n, owner in enumerate(of) if owner == slice_) for slice_ in slices.names(self._profile)}

    def _longest(self, parts: Sequence[Taken]) -> int:
        return max(len(row.ids) for taken in parts for row in taken.sequences)

    def _require_apart(self, name: str, parts: Sequence[Taken]) -> None:
        """A document is in one set or domain only: what is judged on is not what was chosen on."""
        for document in (document for taken in parts for document in taken.hashes):
            other = self._taken_by.setdefault(document, name)
            assert other == name, f"a document of {name} is in {other} too"


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
