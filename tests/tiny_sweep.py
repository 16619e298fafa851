"""A tiny model swept by groups in 4 and 2 bits, on four short sequences: what tests of searches and budgets start from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import tiny_models
import torch

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.models import loading
from bitzones.models.units import model_units
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.search import local_search
from bitzones.search.local_search import Workbench
from bitzones.sensitivity import sweep
from bitzones.sensitivity.variants import Variants

CPU = torch.device("cpu")
LENGTHS = (5, 9, 12, 7)


def sequences(lengths: tuple[int, ...] = LENGTHS) -> SequenceSet:
    """Random tokens of the tiny models' vocabulary."""
    generator = torch.Generator().manual_seed(7)
    made = [tuple(torch.randint(1, 257, (n,), generator=generator).tolist()) for n in lengths]
    return SequenceSet(tuple(TokenSequence(ids, len(ids) - 2, ()) for ids in made))


CALIBRATION = sequences()


def batches() -> Iterator[Batch]:
    """All four sequences at once."""
    return sequence_sets.batches(CALIBRATION, 4, CPU)


@cache
def swept() -> tuple[Variants, SensitivityCell, Workbench]:
    """The variants, the separate sensitivities, and a workbench of both."""
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    variants = Variants(loaded, {"bf16": "bf16", "w4": "qint4", "w2": "qint2:hqq"}, CPU, torch.float32)
    cell = sweep.exact_cell(variants, model_units(loaded.model, "group"), "group", CALIBRATION, batches(), lambda done: None)
    return variants, cell, local_search.workbench(variants, cell, batches, len(CALIBRATION.sequences))
