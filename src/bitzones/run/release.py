"""Measures the installed releases of quanto and transformers: accuracy, KL and bytes of a model, and whether it can be saved and loaded.

This code also works with releases that are too old for the other measuring rooms, so it uses only basic calls: quantize, forward, generate,
save and load, without shared caches or a choice of kernels. A feature that a release lacks becomes a cell that was not measured. The cells
are those of any run, so two releases are compared like two runs.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

import bitzones
from bitzones.backends.quanto import compat
from bitzones.data import prompts, sequences, tasks
from bitzones.data.encoding import Encoded, encoded, positions, text_of
from bitzones.data.padding import padded
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.data.tasks import ScoredTask, TaskSet
from bitzones.devices import device as devices
from bitzones.evaluation import kl, scoring
from bitzones.evaluation.scoring import MAX_NEW_TOKENS, Scored
from bitzones.models import sources
from bitzones.run.attempts import attempted, reason_of
from bitzones.schema import environment
from bitzones.schema.cells import Cell, FailedCell, ReleaseCell
from bitzones.schema.errors import NonFiniteError, NotMeasuredError, TaskError
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.profile import Profile, variant_formats
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell
from bitzones.schema.record import Figure
from bitzones.schema.run_record import KEY, ModelInfo, Run

__all__ = ["CPU", "ReleaseBench", "ReleaseVariant", "measure", "release_bench", "run_file", "run_of"]

CPU = torch.device("cpu")

DTYPE = torch.float32
"""Storage and compute dtype: every release supports it on a CPU without kernels of its own."""

NOT_ASKED = Figure(value=None, unit="bytes", status="not asked")
"""Memory in use is not a property of a release."""


@dataclass(frozen=True)
class ReleaseBench:
    """The reference, and the tasks and sequences for every variant."""

    profile: Profile
    files: sources.Files
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tasks: tuple[TaskSet, ...]
    sensitivity_set: SequenceSet

    @property
    def batches(self) -> Iterator[Batch]:
        return sequences.batches(self.sensitivity_set, self.profile.sensitivity.batch, CPU)

    @cached_property
    def names(self) -> list[str]:
        """Modules to quantize: every linear layer except the head."""
        head = self.model.get_output_embeddings()
        return [name for name, module in self.model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head]


def measure(profile: Profile, notify: Callable[[str], None]) -> dict[str, Any]:
    """Measure every variant of a profile with the installed releases; returns the contents of a run file.

    Raises:
        MeasureError: the model or a task does not exist, or the model cannot be loaded.
    """
    devices.seed_everything(profile.seed)
    bench, formats = release_bench(profile, notify), variant_formats(profile)
    cells: list[Cell] = []
    for variant, format_name in formats.items():
        notify(f"measuring {variant}")
        cells += ReleaseVariant(bench, variant, format_name).cells()
    return run_file(run_of(bench, formats), cells)


def run_of(bench: ReleaseBench, formats: Mapping[str, str]) -> Run:
    """What all cells share."""
    return Run(
        bitzones=bitzones.__version__,
        profile=bench.profile,
        model=_info(bench),
        variants=dict(formats),
        environment=environment.collect("cpu", devices.name_of(CPU), torch.get_num_threads(), "not asked"),
    )


def run_file(run: Run, cells: Sequence[Cell]) -> dict[str, Any]:
    """The contents of a run file with these cells, without timings."""
    named = [(f"release[{' '.join(_key(cell))}]", cell) for cell in cells]
    benchmarks = [{"name": name, "fullname": name, "extra_info": {KEY: cell.model_dump(mode="json")}} for name, cell in named]
    return {KEY: run.model_dump(mode="json"), "benchmarks": benchmarks}


def _key(cell: Cell) -> tuple[str, ...]:
    return cell.of if isinstance(cell, FailedCell) else cell.kind, cell.variant, cell.task if isinstance(cell, AccuracyCell) else ""


def release_bench(profile: Profile, notify: Callable[[str], None]) -> ReleaseBench:
    """The model and what it is asked, in float32 on the CPU."""
    files = sources.locate(profile.model, notify)
    model = AutoModelForCausalLM.from_pretrained(files.path).eval().requires_grad_(requires_grad=False)
    torch.nn.Module.to(model, DTYPE)
    # This class exists in every release: 4.x does not know the one that 5 writes into a tokenizer's configuration.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(files.path)
    found = [_own(task) for task in tasks.of_profile(profile).values()]
    seen = {prompt for task in found for prompt in task.prompts}
    train = [task.training() for task in found]
    chosen = sequences.take(sequences.sequences(tokenizer, train, seen, positions(model)), profile.sensitivity.tokens)
    return ReleaseBench(profile, files, model, tokenizer, tuple(prompts.asked(task, tokenizer) for task in found), chosen)


def _own(task: ScoredTask) -> TaskSet:
    if not isinstance(task, TaskSet):
        raise TaskError(f"task {task.name!r} is one of lm-evaluation-harness, and releases are compared on the tasks of bitzones itself")
    return task


def _info(bench: ReleaseBench) -> ModelInfo:
    model, dtype = bench.model, str(DTYPE).removeprefix("torch.")
    return ModelInfo(
        source=bench.profile.model.source,
        revision=bench.files.revision,
        sha256=bench.files.sha256,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=model.config.num_hidden_layers,
        dtype=dtype,
        compute_dtype=dtype,
        tied_embeddings=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
    )


@dataclass(frozen=True)
class ReleaseVariant:
    """One assignment of formats: the reference, or every module of the bench in one format."""

    bench: ReleaseBench
    name: str
    format: str

    @property
    def is_reference(self) -> bool:
        return self.format not in self.bench.profile.formats

    @cached_property
    def model(self) -> PreTrainedModel:
        if self.is_reference:
            return self.bench.model
        model = copy.deepcopy(self.bench.model)
        compat.quantize(model, self.format, self.bench.names)
        return model

    def cells(self) -> Iterator[Cell]:
        """All cells of the variant; one that cannot be measured has the reason."""
        for task, asked in zip(self.bench.profile.tasks, self.bench.tasks, strict=True):
            yield self._cell("accuracy", partial(self._accuracy, asked, task.batch), asked.name)
        yield self._cell("memory", self._memory)
        if not self.is_reference:
            yield self._cell("divergence", self._divergence)
            yield self._cell("release", self._release)

    def _cell(self, of: str, make: Callable[[], Cell], detail: str = "") -> Cell:
        with torch.no_grad():
            return attempted(of, self.name, detail, make)

    def _accuracy(self, task: TaskSet, batch: int) -> AccuracyCell:
        started = perf_counter()
        texts, found = [text_of(item) for item in task.items], dict[int, Scored]()
        for rows in encoded(self.model, self.bench.tokenizer, texts, batch, spare=MAX_NEW_TOKENS + task.reasoning_tokens):
            answers = self._chosen(task, rows) if task.kind == "choice" else self._numbers(task, rows)
            found |= zip((row.place for row in rows), answers, strict=True)
        return scoring.cell(task, self.name, [found[place] for place in range(len(texts))], perf_counter() - started)

    def _chosen(self, task: TaskSet, rows: Sequence[Encoded]) -> Iterator[Scored]:
        for row, values in zip(rows, _likelihoods(self.model, rows), strict=True):
            yield scoring.chosen(task.items[row.place], values, [len(answer) for answer in row.answers], _read(row))

    def _numbers(self, task: TaskSet, rows: Sequence[Encoded]) -> Iterator[Scored]:
        for row, text, (gold,) in zip(
            rows, self._written(rows, MAX_NEW_TOKENS + task.reasoning_tokens), _likelihoods(self.model, rows), strict=True
        ):
            reasoned = task.reasoning_tokens > 0
            yield scoring.written(task.items[row.place], text, gold, len(row.answers[0]), _read(row), reasoned=reasoned)

    def _written(self, rows: Sequence[Encoded], new_tokens: int) -> list[str]:
        """Greedy continuations of each context."""
        ids, mask = padded([row.context for row in rows], CPU, left=True)
        end = self.model.generation_config.eos_token_id
        config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end)
        model: Any = self.model
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        texts: list[str] = self.bench.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return texts

    def _divergence(self) -> DivergenceCell:
        return kl.divergence_cell(self.name, self.bench.model, self.model, self.bench.sensitivity_set, self.bench.batches)

    def _memory(self) -> MemoryCell:
        stored = compat.stored_bytes(self.model)
        return MemoryCell(
            variant=self.name,
            stored_bytes=stored,
            stored_bytes_by_format={self.format: stored},
            process_rss=NOT_ASKED,
            process_peak_rss=NOT_ASKED,
            device_allocated=NOT_ASKED,
            device_used=NOT_ASKED,
        )

    def _release(self) -> ReleaseCell:
        asked, found = set(self.bench.names), set(compat.quantized_modules(self.model))
        reload, said = self._reload()
        return ReleaseCell(
            variant=self.name,
            modules=len(asked),
            unasked=tuple(sorted(found - asked)),
            missed=tuple(sorted(asked - found)),
            reload=reload,
            reason=said,
        )

    def _reload(self) -> tuple[Any, str]:
        """Whether the model computes the same after saving and loading, and the reason if not."""
        batch = next(self.bench.batches)
        before = kl.logits_of(self.model, batch)
        try:
            with tempfile.TemporaryDirectory() as place:
                loaded = compat.save_and_load(self.model, Path(place) / "saved")
                after = kl.logits_of(loaded, batch)
        except NotMeasuredError as error:
            return "unsupported", str(error)
        except Exception as error:  # noqa: BLE001 (as above)
            return "failed", reason_of(error)
        if torch.equal(before, after):
            return "same", ""
        return "differs", f"logits differ by up to {float((after - before).abs().max()):.3g}"


def _read(row: Encoded) -> int:
    return len(row.context) + sum(map(len, row.answers))


def _likelihoods(model: PreTrainedModel, rows: Sequence[Encoded]) -> list[list[float]]:
    """Log-likelihood of every answer of each row after its context, in nats, from one forward pass over whole sequences."""
    pairs = [(row.context, answer) for row in rows for answer in row.answers]
    ids, mask = padded([[*context, *answer] for context, answer in pairs], CPU, left=False)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    each = logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
    places = [slice(len(context) - 1, len(context) - 1 + len(answer)) for context, answer in pairs]
    sums = torch.stack([each[number, place].sum() for number, place in enumerate(places)])
    if not torch.isfinite(sums).all():
        raise NonFiniteError("the log-likelihood of an answer is NaN or infinite")
    found = iter(sums.tolist())
    return [[next(found) for _ in row.answers] for row in rows]
