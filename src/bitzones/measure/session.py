"""What one run has loaded, each thing once and only when first needed: the benches get everything from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import bitzones
from bitzones import environment, records
from bitzones.measure import calibration, models, quantizers, tasks
from bitzones.measure import device as devices
from bitzones.measure.calibration import Batch, Calibration
from bitzones.measure.tasks import TaskSet
from bitzones.measure.variants import Variants
from bitzones.profile import Profile, variant_formats

__all__ = ["Session"]


class Session:
    """One run of one profile.

    Args:
        profile: what to run.
        notify: told, in a line, of anything that takes long and is not a measurement.
    """

    def __init__(self, profile: Profile, notify: Callable[[str], None] = lambda message: None) -> None:
        self.profile = profile
        self.formats = variant_formats(profile)
        self.reference_id = next(iter(self.formats))
        self._notify = notify
        self._tasks = cache(self._load_task)

    @cached_property
    def device(self) -> torch.device:
        return devices.resolve(self.profile.model.device)

    @cached_property
    def variants(self) -> Variants:
        """All variants. Quanto's extension is compiled here too, once it is known that there is a model, and before anything is timed."""
        devices.seed_everything(self.profile.seed)
        loaded = models.load(self.profile.model, self.device)
        quantizers.extension_failure(self._notify)
        dtype = devices.compute_dtype(self.device, self.profile.model.compute_dtype, loaded.model.dtype)
        return Variants(loaded, self.formats, self.device, dtype)

    def model(self, variant: str) -> PreTrainedModel:
        return self.variants.model(variant)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.variants.loaded.tokenizer

    @cached_property
    def layers(self) -> Sequence[torch.nn.Module]:
        """The reference's decoder layers."""
        return list(models.decoder_layers(self.variants.reference).values())

    def task(self, name: str) -> TaskSet:
        """The items that are scored."""
        return self._tasks(name)

    def _load_task(self, name: str) -> TaskSet:
        limit = next(task.limit for task in self.profile.tasks if task.name == name)
        return tasks.load(name, "test", limit)

    def task_batch(self, name: str) -> int:
        return next(task.batch for task in self.profile.tasks if task.name == name)

    @cached_property
    def calibration(self) -> Calibration:
        """Sequences from the train splits, without what is scored."""
        train = [tasks.load(task.name, "train") for task in self.profile.tasks]
        scored = {item.prompt for task in self.profile.tasks for item in self.task(task.name).items}
        return calibration.build(self.tokenizer, train, self.profile.calibration.tokens, scored)

    def calibration_batches(self) -> Iterator[Batch]:
        return calibration.batches(self.calibration, self.profile.calibration.batch, self.device)

    def run(self) -> records.Run:
        """What the run file says of the whole run; the model only if it could be loaded."""
        loaded = "variants" in self.__dict__
        return records.Run(
            bitzones=bitzones.__version__,
            profile=self.profile,
            model=self.variants.loaded.info(self.variants.compute_dtype) if loaded else None,
            variants=self.formats,
            environment=self.environment() if loaded else None,
        )

    def environment(self) -> records.Environment:
        failure = quantizers.extension_failure(self._notify)
        return environment.collect(str(self.device), devices.name_of(self.device), torch.get_num_threads(), failure or "built")
