"""Sets put together from several sources, each giving its share; sources are opened once, so that sets share what is left of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data import encoding, sequences, text
from bitzones.data.dealing import Dealer, Taken
from bitzones.data.sequences import NO_FEWEST, Fewest, Sequences, SequenceSet, TokenSequence
from bitzones.data.tasks import ScoredTask
from bitzones.data.text import Documents, Texts
from bitzones.data.token_streams import Items, TokenStream, drawn
from bitzones.schema.errors import TaskError
from bitzones.schema.profile import Profile
from bitzones.schema.profile_sections import Text
from bitzones.schema.run_record import TextSet
from bitzones.schema.text_settings import GENERATED, RANDOM, TASKS, Domain, TextSource, shares
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["Mixer", "Writer", "joined"]

Writer = Callable[[int], Iterator[TokenSequence]]
"""Given how many tokens a sequence has, what the reference writes, sequence by sequence."""


class Mixer:
    """Opens the sources of a run, and takes from them.

    Args:
        profile: says where text comes from and how it is cut.
        tokenizer: of the model.
        model: says how long a sequence may be.
        scored: the tasks, whose scored items are in no set.
        given: texts in memory, by the name that the profile has for them.
        writer: gives text of the reference.
    """

    def __init__(
        self,
        profile: Profile,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        scored: Mapping[str, ScoredTask],
        given: Mapping[str, Texts],
        writer: Writer | None = None,
    ) -> None:
        self._profile = profile
        self._tokenizer = tokenizer
        self._room = encoding.positions(model)
        self._scored = scored
        self._prompts = {prompt for task in scored.values() for prompt in task.prompts}
        self._given = given
        self._writer = writer
        self._opened: dict[object, Documents | TokenStream | Items] = {}

    @cached_property
    def from_tasks(self) -> Sequences:
        """What is left of the train splits, without what is scored and without what stands before it."""
        train = [task.training() for task in self._with_training]
        return sequences.sequences(self._tokenizer, train, self._prompts, self._room, [task.name for task in self._with_training])

    def require_train_split(self) -> None:
        """Refuse tasks of which none, or where plans are made by task not each, has questions to take sequences from.

        Raises:
            TaskError: the message names what to give.
        """
        if not self._with_training:
            names = ", ".join(self._scored)
            raise TaskError(f"no train split to take sequences from ({names}): name text of their own in [[sensitivity.text]]")
        if self._profile.plans.by == "task" and (without := [name for name, task in self._scored.items() if not task.has_training]):
            raise TaskError(f"plans.by = task: task {without[0]} has no train split to make its plan from: leave the task or plans.by out")

    @property
    def _with_training(self) -> list[ScoredTask]:
        return [task for task in self._scored.values() if task.has_training]

    def take(self, chosen: Sequence[TextSource], tokens: int, key: str, *, by_slice: bool = False) -> tuple[list[Taken], int]:
        """What each source gives, and how many items of the tasks were passed over since they are longer than the model reads.

        ``by_slice`` takes more where that is needed for an interval on every slice of the profile.

        Raises:
            TaskError: a source cannot be read, or holds too few tokens or sequences.
        """
        before = self.from_tasks.passed_over if self._profile.tasks else 0
        found = []
        for source, share in zip(chosen, shares(chosen), strict=True):
            part = f"{key} (share {share:g} of {source.source})" if len(chosen) > 1 else key
            fewest = self._fewest(source) if by_slice else NO_FEWEST
            taken = self._take(source, math.ceil(share * tokens), part, self._length, fewest)
            found.append(_said(taken, source, share))
        return found, self.from_tasks.passed_over - before if self._profile.tasks else 0

    def domain(self, domain: Domain) -> Taken:
        """The windows of a domain.

        Raises:
            TaskError: its source cannot be read, or holds too few tokens.
        """
        opened = self._open(domain, domain.window)
        if isinstance(opened, Documents):
            return _said(self._dealer.windows(opened, domain), domain)
        taken = opened.take(domain.tokens, f"domain {domain.name}: tokens")
        if any(len(row.ids) < domain.first + 2 for row in taken.sequences):
            raise TaskError(f"domain {domain.name}: context = {domain.first} leaves nothing to score in its shortest sequence: lower it")
        return _said(taken, domain)

    def _take(self, source: TextSource, tokens: int, key: str, length: int, fewest: Fewest) -> Taken:
        opened = self._open(source, length)
        if isinstance(opened, Documents):
            return self._dealer.take(opened, tokens, key, fewest)
        return opened.take(tokens, key, fewest)

    def _fewest(self, source: TextSource) -> Fewest:
        """Of the slices that the source gives sequences to."""
        match self._profile.plans.by:
            case "task" if source.source == TASKS:
                return Fewest(MIN_SEQUENCES, tuple(self._scored))
            case "domain":
                return Fewest(MIN_SEQUENCES)
        return NO_FEWEST

    def _open(self, source: TextSource | Domain, length: int) -> Documents | TokenStream | Items:
        made = source.source in {GENERATED, RANDOM}
        name = (*source.reads, length) if made else source.reads
        if name not in self._opened:
            self._opened[name] = self._fresh(source, length)
        return self._opened[name]

    def _fresh(self, source: TextSource | Domain, length: int) -> Documents | TokenStream | Items:
        match source.source:
            case name if name == TASKS:
                self.require_train_split()
                return Items((task.name for task in self._with_training), self.from_tasks)
            case name if name == RANDOM:
                return drawn(self._tokenizer, self._dealer.prefix, length, self._profile.seed + length)
            case name if name == GENERATED:
                if self._writer is None:
                    raise TaskError("text source generated: there is no model here that could write")
                origin = f"written by the reference, seed {self._profile.seed}"
                return TokenStream(origin, self._writer(length))
            case name:
                return text.opened(self._given.get(name, name), source.column, source.split, source.config, name)

    @property
    def _length(self) -> int:
        return (self._profile.text or Text()).sequence_tokens

    @cached_property
    def _dealer(self) -> Dealer:
        return Dealer(self._tokenizer, self._length, self._room, self._prompts)


def joined(parts: Sequence[Taken], longest: int, passed_over: int = 0) -> tuple[SequenceSet, TextSet]:
    """The sequences of all sources as one set, source after source, and its record."""
    every = tuple(row for taken in parts for row in taken.sequences)
    records = [taken.part for taken in parts]
    reasons = dict.fromkeys(reason for part in records for reason in part.passed_over)
    whole = TextSet(
        origin="; ".join(part.origin for part in records),
        documents=sum(part.documents for part in records),
        sequences=len(every),
        tokens=sum(part.tokens for part in records),
        sequence_tokens=longest,
        passed_over={reason: sum(part.passed_over.get(reason, 0) for part in records) for reason in reasons},
        sha256=records[0].sha256 if len(records) == 1 else hashlib.sha256("".join(part.sha256 for part in records).encode()).hexdigest(),
        parts=tuple(records),
    )
    return SequenceSet(every, passed_over), whole


def _said(taken: Taken, source: TextSource | Domain, share: float = 1.0) -> Taken:
    """With what the profile says of the source."""
    changed = {"share": share, "license": source.license or taken.part.license}
    return Taken(taken.sequences, taken.part.model_copy(update=changed), taken.hashes)
