"""A model whose layers lie in several places computes what it computes in one, whatever is measured on it.

Without a GPU the places are those of `two_devices`: memory of the CPU that is kept apart. With one GPU they are that and the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import pytest
import tiny_models
import torch
from tiny_sweep import sequences
from two_devices import TwoDevices

from bitzones.data import sequences as sequence_sets
from bitzones.data import tasks
from bitzones.data.sequences import Batch
from bitzones.devices import device as devices
from bitzones.devices import nvml, oom_retry
from bitzones.evaluation import accuracy, kl
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.models import loading, offload, structure
from bitzones.models.units import fused_groups, model_units
from bitzones.profiling import gemm_latency, latency, memory
from bitzones.profiling.hardware import Hardware
from bitzones.run.session import Session
from bitzones.run.session_record import run_record
from bitzones.schema import latency_grid, profile, profile_files, profile_sections
from bitzones.schema.errors import ModelError, NotMeasuredError, OutOfMemoryError
from bitzones.schema.latency_grid import Timing
from bitzones.sensitivity import activation_stats, fisher, sweep
from bitzones.sensitivity.variants import Variants

CPU, GPU, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
NEAR, FAR = torch.device("xpu", 0), torch.device("xpu", 1)
"""Pretended: for a kind of device that this code has no branch for."""
CALIBRATION, ROUNDING = sequences(), sequences((40,) * 16)
FORMATS = {"bf16": "bf16", "w8": "qint8", "w2": "qint2"}
ROUNDED = {"bf16": "bf16", "g2": "qint2:gptq"}
NAMES = [f"model.layers.{number}" for number in range(tiny_models.LAYERS)]
cuda = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@dataclass(frozen=True)
class Pair:
    """One model twice: together on the device, and with its last layers elsewhere."""

    device: torch.device
    elsewhere: torch.device
    together: Variants
    spread: Variants
    places: AbstractContextManager[object]

    def batches(self) -> Iterator[Batch]:
        return sequence_sets.batches(CALIBRATION, 2, self.device)

    def close(self, first: object, second: object) -> None:
        torch.testing.assert_close(torch.tensor(second), torch.tensor(first), rtol=1e-3, atol=1e-6)


def made(
    device: torch.device, elsewhere: torch.device | None, formats: dict[str, str] = FORMATS, compute: torch.dtype = torch.float32
) -> Variants:
    model = tiny_models.llama(torch.bfloat16)
    where = {name: elsewhere if elsewhere and number else device for number, name in enumerate(NAMES)}
    offload.place(model, device, where)
    loaded = loading.Loaded(model, tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, formats, device, compute, lambda: list(sequence_sets.batches(ROUNDING, 8, device)))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((NEAR, CPU), id="brought"),
        pytest.param((NEAR, FAR), id="sent"),
        pytest.param((GPU, CPU), id="cuda", marks=cuda),
    ],
)
def both(request: pytest.FixtureRequest) -> Pair:
    device, elsewhere = request.param
    places = nullcontext() if device == GPU else TwoDevices()
    with places:
        return Pair(device, elsewhere, made(device, None), made(device, elsewhere), places)


@pytest.fixture
def pair(both: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    generator = torch.Generator
    if both.device == NEAR:  # it is no tensor, so its device cannot be pretended
        monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    with both.places:
        yield both


def logits(variants: Variants, variant: str, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return kl.logits_of(variants.model(variant), batch)


@pytest.mark.parametrize("variant", FORMATS)
def test_every_variant_computes_the_same(pair: Pair, variant: str) -> None:
    batch = next(pair.batches())
    assert offload.is_spread(pair.spread.model(variant))
    assert not offload.is_spread(pair.together.model(variant))
    torch.testing.assert_close(logits(pair.spread, variant, batch), logits(pair.together, variant, batch), rtol=1e-4, atol=1e-4)


def test_a_variant_runs_its_own_layers(pair: Pair) -> None:
    """A copy whose layers called those of the model that it was copied from would not see this."""
    batch = next(pair.batches())
    before = logits(pair.spread, "bf16", batch), logits(pair.spread, "w8", batch)
    last = pair.spread.model("w8").get_submodule(NAMES[-1])
    norm = last.get_parameter("input_layernorm.weight")
    norm.data.mul_(3.0)
    assert torch.equal(logits(pair.spread, "bf16", batch), before[0])
    assert not torch.equal(logits(pair.spread, "w8", batch), before[1])
    norm.data.div_(3.0)


def test_sensitivities(pair: Pair) -> None:
    cells = [
        sweep.exact_cell(v, model_units(v.loaded.model), "layer", CALIBRATION, pair.batches(), lambda done: None)
        for v in (pair.together, pair.spread)
    ]
    assert len(cells[0].measurements) == tiny_models.LAYERS * 2
    for one, other in zip(cells[0].measurements, cells[1].measurements, strict=True):
        assert (one.unit, one.format, one.stored_bytes) == (other.unit, other.format, other.stored_bytes)
        pair.close(one.kl_nats, other.kl_nats)
        pair.close(one.weight_error, other.weight_error)


def test_a_sweep_around_a_changed_base(pair: Pair) -> None:
    found = []
    for variants in (pair.together, pair.spread):
        weights = variants.packed("w2")
        candidate = sweep.Candidate(2, {f"{NAMES[2]}.mlp.down_proj": variants.packed("w8")[f"{NAMES[2]}.mlp.down_proj"]})
        blocks = list(structure.decoder_layers(variants.reference).values())
        found.append(sweep.exact(variants.reference, blocks, [candidate], pair.batches(), 4, base=weights))
    pair.close(found[0].base, found[1].base)
    pair.close(found[0].candidates, found[1].candidates)


def test_fisher_scores(pair: Pair) -> None:
    """Labels are drawn by the same generator from logits that agree to rounding; one of them may fall otherwise."""
    cells = [
        fisher.fisher_cell(v, model_units(v.loaded.model), CALIBRATION, pair.batches(), 2, 0, lambda done: None)
        for v in (pair.together, pair.spread)
    ]
    for one, other in zip(cells[0].scores, cells[1].scores, strict=True):
        torch.testing.assert_close(torch.tensor(other.nats), torch.tensor(one.nats), rtol=1e-2, atol=1e-3)


def test_layer_statistics(pair: Pair) -> None:
    found = [
        activation_stats.measure(v.reference, list(structure.decoder_layers(v.reference).values()), pair.batches)
        for v in (pair.together, pair.spread)
    ]
    for one, other in zip(*found, strict=True):
        pair.close([one.mean, one.std, one.peak, one.kurtosis], [other.mean, other.std, other.peak, other.kurtosis])
        assert one.attention is not None
        assert other.attention is not None
        pair.close(one.attention.entropy_nats_by_head, other.attention.entropy_nats_by_head)


@pytest.mark.parametrize("how", ["packed", "whole"])
def test_rounded_weights_lie_where_their_modules_do(pair: Pair, how: str) -> None:
    together, spread = made(pair.device, None, ROUNDED), made(pair.device, pair.elsewhere, ROUNDED)
    one, other = (getattr(v, how)("g2") for v in (together, spread))
    assert not any((*together.fallbacks.values(), *spread.fallbacks.values()))
    torch.testing.assert_close(*(logits(v, "g2", next(pair.batches())) for v in (together, spread)), rtol=1e-2, atol=1e-2)
    for name, weight in other.items():
        assert weight.device == spread.reference.get_submodule(name).get_parameter("weight").device
        same = weight.parts().integers == one[name].parts().integers
        assert same.float().mean() > 0.99, "moments of other sums round a few weights otherwise"


@pytest.mark.parametrize("task", ["science_mini", "word_problems_mini"])
def test_answers(pair: Pair, task: str) -> None:
    """Contexts read once, on a cache of which each layer's unit lies where the layer runs."""
    items = tasks.load(task, limit=6)
    one, other = (accuracy.measure(v.reference, v.loaded.tokenizer, items, "bf16", 3) for v in (pair.together, pair.spread))
    pair.close(one.gold_nll_nats, other.gold_nll_nats)
    assert one.predictions == other.predictions


def test_times_and_bytes(pair: Pair) -> None:
    shape, gpu = Timing("decode", 2, 8, 4), nvml.open_gpu(None)
    tokens = []
    for variants in (pair.together, pair.spread):
        ready = latency.ready(variants.model("w8"), shape, 0, 1, gpu, fused_groups(variants.loaded.model))
        tokens.append(ready.timed.run(*ready.timed.setup()).tolist())
        assert memory.measure("w8", variants, shape, gpu).stored_bytes == pair.together.stored_bytes("w8")
    assert tokens[0] == tokens[1]
    with pytest.raises(NotMeasuredError, match="is not compiled"):
        latency.ready(pair.spread.reference, replace(shape, compiled=True), 0, 1, gpu, {})


def test_times_of_units_are_those_of_the_device(pair: Pair) -> None:
    shapes = latency_grid.Latency(batch=(1,), prompt_tokens=(4,), new_tokens=2, rounds=2, warmup_rounds=1)
    found = gemm_latency.measure(pair.spread, model_units(pair.spread.loaded.model), shapes, 0)
    assert {item.format for item in found.times} == set(FORMATS.values())


def test_weights_are_their_own_again_also_after_an_error(pair: Pair) -> None:
    model, batch = pair.spread.reference, next(pair.batches())
    before = [(name, parameter, parameter.data_ptr()) for name, parameter in model.named_parameters()]

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model.get_submodule(f"{NAMES[-1]}.mlp.up_proj").register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        kl.logits_of(model, batch)
    handle.remove()
    kl.logits_of(model, batch)
    now = dict(model.named_parameters())
    assert all(now[name] is parameter and parameter.data_ptr() == address for name, parameter, address in before)


def test_skipped_layers_run_elsewhere_again_afterwards(pair: Pair) -> None:
    model, batch = pair.spread.reference, next(pair.batches())
    blocks = list(structure.decoder_layers(model).values())
    with torch.no_grad():
        kept, whole = passed(model, blocks, batch)
        for start in range(len(blocks) + 1):
            with entered_at(blocks, kept.before(start)):
                torch.testing.assert_close(kl.logits_of(model, batch), whole)
    assert ["forward" in vars(block) for block in blocks] == [False, True, True]
    assert {tensor.device for call in kept.calls for tensor in (call.hidden, call.step.hidden)} == {whole.device}


def test_where_layers_lie_is_in_the_record(pair: Pair) -> None:
    assert pair.spread.loaded.info(torch.float32).placement == {"0": str(pair.device), "1-2": str(pair.elsewhere)}
    assert pair.together.loaded.info(torch.float32).placement == {}


def test_the_pretended_devices_refuse_what_real_ones_refuse() -> None:
    with TwoDevices():
        model = tiny_models.llama()
        offload.place(model, NEAR, dict.fromkeys(NAMES, NEAR))
        torch.nn.Module.to(model.model.layers[1], CPU)
        batch = next(sequence_sets.batches(CALIBRATION, 2, NEAR))
        with pytest.raises(RuntimeError, match="expected all tensors on one device, found cpu, xpu:0"):
            kl.logits_of(model, batch)


def test_a_layer_that_was_guessed_wrongly_is_named() -> None:
    with pytest.raises(ModelError, match=r"^model.layers.2 is a decoder layer, and without weights model.layers.0 was taken for the first"):
        offload.place(tiny_models.llama(), NEAR, dict.fromkeys(NAMES[:2], NEAR))


def test_layers_fill_one_device_after_the_other() -> None:
    model = tiny_models.llama(torch.bfloat16)
    layer = offload.needed_bytes(model.model.layers[0], [])
    outside = offload.held_bytes(model) - tiny_models.LAYERS * layer
    plan = partial(offload.planned, model)
    assert set(plan({GPU: 3 * layer + outside, CPU: 0}).values()) == {GPU}
    assert list(plan({GPU: 3 * layer + outside - 1, CPU: 2 * layer}).values()) == [GPU, CPU, CPU], "one place is for what is brought"
    assert list(plan({GPU: 2 * layer + outside, SECOND: layer, CPU: layer}).values()) == [GPU, SECOND, CPU]
    assert list(plan({GPU: layer + outside, CPU: 3 * layer}).values()) == [CPU, CPU, CPU]
    for room in ({GPU: layer + outside - 1, CPU: 9 * layer}, {GPU: 2 * layer + outside, CPU: 2 * layer - 1}):
        with pytest.raises(ModelError, match=r"^it needs 0\.0 GB .* there is room for 0\.0 GB on cuda:0, 0\.0 GB on the host: use fewer"):
            plan(room)


def test_a_model_that_is_not_drawn_yet_is_planned_too() -> None:
    model = tiny_models.llama(torch.bfloat16)
    with torch.device("meta"):
        drawn = type(model)(model.config).to(torch.bfloat16)
    room = {GPU: 2 * offload.held_bytes(model), CPU: 10 * offload.held_bytes(model)}
    assert offload.planned(drawn, room, ["qint4"]) == offload.planned(model, room, ["qint4"])
    assert set(offload.planned(drawn, room, ["qint4"]).values()) == {GPU, CPU}


def test_what_a_layer_takes_in_all_its_formats() -> None:
    layer = tiny_models.llama(torch.bfloat16).model.layers[0]
    wide, inner = tiny_models.WIDTH, tiny_models.INNER
    weights = 2 * (2 * wide * wide + 2 * wide * wide // 3 + 3 * wide * inner)
    held = weights + 2 * 2 * wide
    packed = [weights // 2 + 2 * (2 * wide + 2 * wide // 3 + 2 * inner + wide)]
    assert offload.needed_bytes(layer, []) == held
    assert offload.needed_bytes(layer, ["qint8"]) == held + weights + 2 * packed[0]
    assert offload.needed_bytes(layer, ["qint8"], copies=3.0) == 3 * (held + weights) + 2 * packed[0]


@pytest.fixture
def two_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 2 * 10**9)
    monkeypatch.setattr(devices, "gpus", lambda device: [device])


@pytest.mark.usefixtures("two_gb")
def test_only_auto_spreads_a_model() -> None:
    with torch.device("meta"):
        config = tiny_models.llama().config
        config.hidden_size, config.intermediate_size = 6 * 1024, 18 * 1024
        large = tiny_models.LlamaForCausalLM(config).to(torch.bfloat16)
    plan = partial(loading._placement, large, device=GPU, formats=[])
    assert set(plan(settings=profile_sections.Model(source="owner/name")).values()) == {GPU, CPU}
    with pytest.raises(ModelError, match=r"^it has 2\.\d GB of weights, and cuda:0 has 2\.0 GB free: device = 'auto' spreads it$"):
        plan(settings=profile_sections.Model(source="owner/name", device="cuda:0"))


@pytest.fixture
def session(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A run of which the GPU has room for a unit of the model."""
    folder = tiny_models.save(tmp_path / "model")
    size = offload.held_bytes(tiny_models.llama(torch.bfloat16))
    monkeypatch.setattr(offload, "rooms", lambda device, held_bytes=0: {device: 3 * size, CPU: 100 * size})
    (tmp_path / "p.toml").write_text(tiny_models.profile_text(str(folder)))
    return Session(profile_files.load(str(tmp_path / "p.toml")))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_of_a_model_that_is_too_large(session: Session) -> None:
    assert session.device == GPU
    found = run_record(session).model.placement
    assert set(found.values()) == {"cuda:0", "cpu"}
    assert session.sweep().measurements
    plan = session.search().found
    assert plan.kl_nats is not None
    assert session.compare().plans
    for variant in (*session.variants.uniform, profile.PLAN):
        batch = next(session.sensitivity_batches())
        with torch.no_grad():
            assert torch.isfinite(kl.logits_of(session.model(variant), batch)).all()
    timing = next(iter(session.profile.latency.timings()))
    ready = session.hardware.ready("w8", timing)
    assert ready.timed.run(*ready.timed.setup()) is not None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("variant", "name"), [("w8", "qint8"), ("w4", "qint4"), ("w2", "qint2:hqq"), ("g2", "qint2:gptq")])
def test_fused_kernels_compute_the_same_on_brought_weights(variant: str, name: str) -> None:
    together, spread = (made(GPU, elsewhere, {"bf16": "bf16", variant: name}, torch.bfloat16) for elsewhere in (None, CPU))
    batch = next(sequence_sets.batches(CALIBRATION, 4, GPU))
    one, other = (logits(v, variant, batch)[batch.mask.bool()].float() for v in (together, spread))
    reference = logits(together, "bf16", batch)[batch.mask.bool()].float()
    assert (one - other).norm() < 0.2 * (one - reference).norm(), "nearer to each other than to what they are made of"


@pytest.fixture
def scarce() -> Iterator[Hardware]:
    """A GPU of which this process may take 300 MB more than it has."""
    devices.free(GPU)
    variants = made(GPU, None)
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + 300e6) / total, GPU)
    tiny = profile_files.load("tiny")
    yield Hardware(variants, tiny)
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    devices.free(GPU)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_a_gpu_that_runs_out_halves_the_batch(scarce: Hardware) -> None:
    """Attention maps of 64 sequences of 400 tokens take 246 MB by layer in float32, and twice that where their entropy is summed."""
    variants, long = scarce._variants, sequences((400,) * 64)
    blocks = list(structure.decoder_layers(variants.reference).values())
    cell = scarce.at_half(
        64, lambda size: activation_stats.cell("bf16", variants.reference, blocks, lambda: sequence_sets.batches(long, size, GPU), long)
    )
    assert cell.sequences == 64
    assert [item.batch for item in cell.shortages][:1] == [64]
    assert all(item.asked_bytes and item.free_bytes for item in cell.shortages)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.usefixtures("scarce")
def test_memory_of_a_gpu_that_is_never_enough_is_said() -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"^out of memory: asked for 4,294,967,296 bytes at batch 1, and [\d,]+ were free$"
    ) as caught:
        oom_retry.halving(4, lambda batch: torch.ones(batch << 32, dtype=torch.uint8, device=GPU), GPU)
    assert [item.batch for item in caught.value.shortages] == [4, 2, 1]
