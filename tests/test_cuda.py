"""On a GPU everything has to be what it is on a CPU: quantized weights, their products, sensitivities, rounding."""

from __future__ import annotations

import os

import pytest
import tiny_models
import torch
from tiny_sweep import CALIBRATION, CPU, sequences

from bitzones.backends.quanto import extensions
from bitzones.data import sequences as sequence_sets
from bitzones.devices import device, energy, nvml
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.profiling import latency
from bitzones.rounding import layerwise
from bitzones.schema.latency_grid import Timing
from bitzones.schema.progress import silent
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell
from bitzones.sensitivity import fisher, sweep
from bitzones.sensitivity.variants import Variants

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

GPU = torch.device("cuda", 0)
FORMATS = {"bf16": "bf16", "w8": "qint8", "w4": "qint4", "w2": "qint2"}
ROUNDED_ON = sequences((40,) * 16)


def variants(on: torch.device, compute_dtype: torch.dtype = torch.float32) -> Variants:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16).to(on), tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, FORMATS, on, compute_dtype)


@pytest.fixture(scope="module")
def there() -> Variants:
    return variants(GPU)


@pytest.fixture(scope="module")
def here() -> Variants:
    return variants(CPU)


def test_quanto_s_extensions_work() -> None:
    assert extensions.extension_failure() is None


@pytest.mark.parametrize("variant", ["w8", "w4", "w2"])
def test_a_quantized_weight_is_the_one_of_a_cpu(there: Variants, here: Variants, variant: str) -> None:
    for name, weight in here.packed(variant).items():
        made = there.packed(variant)[name]
        assert made.device == GPU
        assert made.stored_bytes == weight.stored_bytes
        torch.testing.assert_close(made.values(torch.float32).cpu(), weight.values(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["w8", "w4", "w2"])
def test_a_quantized_model_computes_with_the_values_that_it_stores(variant: str, dtype: torch.dtype) -> None:
    """Whatever kernel quanto takes for the weights: AWQ, TinyGemm, Marlin, or unpacking them."""
    found = variants(GPU, dtype)
    ids = torch.tensor([CALIBRATION.sequences[2].ids], device=GPU)
    dense = tiny_models.llama(torch.bfloat16).to(GPU).float()
    for name, weight in found.whole(variant).items():
        dense.get_submodule(name).weight = torch.nn.Parameter(weight.values(torch.float32), requires_grad=False)
    model = found.model(variant)
    assert sum(latency.kernels(model).values()) == len(structure.quantizable_modules(dense))
    computed, expected = (m(ids).logits.float().log_softmax(-1) for m in (model, dense))
    torch.testing.assert_close(computed, expected, rtol=0, atol={torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}[dtype])


def swept(made: Variants) -> SensitivityCell:
    units = model_units(made.loaded.model, "group")
    return sweep.exact_cell(made, units, "group", CALIBRATION, sequence_sets.batches(CALIBRATION, 2, made.device), silent)


def test_exact_sensitivity_is_that_of_a_cpu_and_leaves_the_model_as_it_was(there: Variants, here: Variants) -> None:
    before = {name: value.clone() for name, value in there.reference.state_dict().items()}
    found, expected = swept(there), swept(here)
    for one, other in zip(found.measurements, expected.measurements, strict=True):
        assert (one.unit, one.format) == (other.unit, other.format)
        assert one.kl_nats == pytest.approx(other.kl_nats, rel=1e-2, abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in there.reference.state_dict().items())


def proxy_scores(made: Variants, samples: int) -> FisherCell:
    units = model_units(made.loaded.model, "group")
    batches = sequence_sets.batches(CALIBRATION, 4, made.device)
    return fisher.fisher_cell(made, units, CALIBRATION, batches, samples, 0, silent)


def test_fisher_scores_estimate_what_those_of_a_cpu_do(there: Variants, here: Variants) -> None:
    """The two devices draw other labels, so that only means are alike: of 32 squares, whose relative spread is about a quarter."""
    mean = [torch.tensor([row.nats for row in proxy_scores(made, 32).scores]).square().mean(1).log() for made in (there, here)]
    assert torch.corrcoef(torch.stack(mean))[0, 1] > 0.9


def test_rounding_chooses_the_same_integers_again_and_loses_as_little_as_on_a_cpu() -> None:
    lost = {}
    for on in (GPU, CPU):
        model = tiny_models.llama(torch.bfloat16).to(on).float()
        batches = list(sequence_sets.batches(ROUNDED_ON, 8, on))
        first, again = (layerwise.separately(model, ["qint2:gptq"], batches, torch.bfloat16)["qint2:gptq"] for _ in range(2))
        assert not first.fallbacks
        assert all(torch.equal(*(x.values(torch.float32) for x in (w, again.weights[name]))) for name, w in first.weights.items())
        lost[on.type] = sum(
            float((w.values(torch.float32) - model.get_parameter(f"{name}.weight")).square().sum()) for name, w in first.weights.items()
        )
    assert lost["cuda"] == pytest.approx(lost["cpu"], rel=0.02)


@pytest.mark.filterwarnings("default")  # torch.compile warns of torch's own code, of something else with every release
def test_compiled_decoding_writes_the_same_tokens() -> None:
    model = tiny_models.llama().to(GPU)
    plain, compiled = (latency.prepare(model, Timing("decode", 2, 5, 6, compiled=compiled), seed=3) for compiled in (False, True))
    expected = plain.run(*plain.setup())
    for _ in range(3):  # CUDA graphs are recorded in the second round
        assert torch.equal(compiled.run(*compiled.setup()), expected)
    device.forget_compiled()


def test_the_driver_tells_memory_energy_and_clocks() -> None:
    gpu = nvml.open_gpu(device.uuid_of(GPU))
    assert gpu.status == "ok"
    before = gpu.used_bytes().value
    held = torch.zeros(2**28, dtype=torch.uint8, device=GPU)
    torch.cuda.synchronize()
    after = gpu.used_bytes().value
    assert before is not None
    assert after is not None
    assert after >= before + held.numel() // 2
    assert gpu.process_bytes(os.getpid()).status in {"ok", "not-listed", "unsupported"}
    assert isinstance(gpu.clocks_held(), tuple)
    idle = energy.idle_watts(gpu)
    assert idle.value is None or 5 < idle.value < 1000
