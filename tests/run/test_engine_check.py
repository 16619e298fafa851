"""An exported model in its engine: what is quantization's, what is the engine's, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import make_plan
import pytest
import tiny_models
import torch

from bitzones import embedded
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import read_plan
from bitzones.deploy.targets import target
from bitzones.run import engine_check
from bitzones.schema import profile_files
from bitzones.schema.errors import ArgumentError, BitzonesError, MissingPackageError, PlanError
from bitzones.schema.profile import Profile
from bitzones.stats.intervals import Estimate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def profile(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    place = tmp_path_factory.mktemp("profile") / "tiny.toml"
    place.write_text(tiny_models.profile_text(str(source)), encoding="utf-8")
    return profile_files.load(str(place))


def exported(source: Path, place: Path, to: str) -> Path:
    plan = make_plan.for_tiny_llama(source, hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest())
    plan_file = read_plan(make_plan.write(place / "plan.json", plan))
    return target(to)(ExportRequest(plan_file, place / to, CPU, notify=print)).folder


@pytest.fixture(scope="module")
def gguf(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(source, tmp_path_factory.mktemp("gguf"), "gguf")


def test_transformers_itself_costs_nothing(gguf: Path, profile: Profile) -> None:
    """It reads the GGUF with code of its own and computes in float32 as the reference does."""
    found = engine_check.check(gguf, "transformers", profile)
    assert found.sequences == len(found.kl_nats["total"]) > 3
    assert found.shares["quantization"].value > 0.01
    assert 0 <= found.shares["engine"].value < 1e-6
    assert found.shares["total"].value == pytest.approx(found.shares["quantization"].value, rel=1e-3)
    assert found.shares["quantization"].value == pytest.approx(sum(found.kl_nats["quantization"]) / found.tokens)
    assert not found.exceeds
    assert found.lines()[-1] == "The engine's share is within the tolerance of 0.02"


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_costs_a_little(tmp_path: Path) -> None:
    """On the embedded model: llama.cpp takes no tokenizer without merges."""
    names = [f"model.layers.{layer}.mlp.{kind}_proj" for layer in range(12) for kind in ("gate", "up")]
    sha256 = hashlib.sha256((embedded.TINY / "model.safetensors").read_bytes()).hexdigest()
    plan = make_plan.plan(dict.fromkeys(names, "qint4"), dict.fromkeys(names, 96), source="embedded:tiny", sha256=sha256)
    done = target("gguf")(ExportRequest(read_plan(make_plan.write(tmp_path / "plan.json", plan)), tmp_path / "gguf", CPU, notify=print))
    (tmp_path / "tiny.toml").write_text(tiny_models.profile_text("embedded:tiny"), encoding="utf-8")
    found = engine_check.check(done.folder, "llama.cpp", profile_files.load(str(tmp_path / "tiny.toml")))
    assert 0 < found.shares["engine"].value < found.shares["quantization"].value


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed")
def test_mlx_costs_a_little(source: Path, profile: Profile, tmp_path: Path) -> None:
    found = engine_check.check(exported(source, tmp_path, "mlx"), "mlx", profile)
    assert 0 < found.shares["engine"].value < 0.1 * found.shares["quantization"].value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(("to", "engine", "package"), [("auto-round", "transformers", "auto_round"), ("gptq", "gptqmodel", "gptqmodel")])
def test_packed_weights_cost_a_little(source: Path, profile: Profile, tmp_path: Path, to: str, engine: str, package: str) -> None:
    """Their kernels multiply in float16 or bfloat16."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    names = [f"model.layers.{layer}.mlp.{kind}_proj" for layer in range(2) for kind in ("gate", "up")]
    sha256 = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    plan = make_plan.plan(dict.fromkeys(names, "int:2g64"), dict.fromkeys(names, 64), source=str(source), sha256=sha256)
    done = target(to)(ExportRequest(read_plan(make_plan.write(tmp_path / "plan.json", plan)), tmp_path / to, CPU, notify=print))
    found = engine_check.check(done.folder, engine, profile)
    assert 0 <= found.shares["engine"].value < 0.1 * found.shares["quantization"].value


def test_an_engine_that_computes_something_else_exceeds_the_tolerance(
    gguf: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that forgets what it read: every token is answered as if it stood alone."""
    from bitzones.deploy import transformers_engine

    right = transformers_engine.opened

    def wrong(folder: Path, longest: int) -> object:
        answer = right(folder, longest)
        return lambda ids: torch.cat([answer([one]) for one in ids])

    monkeypatch.setattr(transformers_engine, "opened", wrong)
    found = engine_check.check(gguf, "transformers", profile)
    assert found.exceeds
    assert found.shares["engine"].value > 0.02
    assert found.lines()[-1] == "The engine's share is more than the tolerance of 0.02"


def test_intervals_are_those_of_the_sequences() -> None:
    rows = [{"quantization": 2.0, "engine": 0.0, "total": 3.0} for _ in range(30)]
    found = engine_check._judged(Path("model"), "mlx", rows, (10,) * 30, None, 0.0)  # type: ignore[arg-type]
    assert found.shares["quantization"] == Estimate(value=0.2, low=0.2, high=0.2)
    assert not found.exceeds
    few = engine_check._judged(Path("model"), "mlx", rows[:3], (10,) * 3, None, 0.0)  # type: ignore[arg-type]
    assert few.shares["total"].low is None


# --- what is refused


def refused(kind: type[BitzonesError], folder: Path, engine: str, profile: Profile) -> str:
    with pytest.raises(kind) as error:
        engine_check.check(folder, engine, profile)
    return str(error.value)


def test_an_engine_that_loads_other_folders(gguf: Path, profile: Profile) -> None:
    assert refused(ArgumentError, gguf, "mlx", profile) == "mlx loads what was exported to mlx, and this folder was exported to gguf"
    assert refused(ArgumentError, gguf, "vllm", profile).startswith(
        "there is no engine 'vllm'; engines: mlx, llama.cpp, gptqmodel, transformers"
    )


def test_an_engine_that_cannot_be_imported(gguf: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.delitem(sys.modules, "bitzones.deploy.llama_engine", raising=False)
    assert refused(MissingPackageError, gguf, "llama.cpp", profile).endswith("pip install llama-cpp-python")


def test_a_folder_that_is_no_export_or_not_whole(gguf: Path, profile: Profile, tmp_path: Path) -> None:
    assert "bitzones export writes it" in refused(PlanError, tmp_path, "mlx", profile)
    shutil.copytree(gguf, tmp_path / "copy")
    (tmp_path / "copy" / "plan.json").write_text("{}", encoding="utf-8")
    assert "'plan.json' is not as bitzones wrote it" in refused(PlanError, tmp_path / "copy", "transformers", profile)


def test_a_run_of_another_model(gguf: Path, tmp_path: Path) -> None:
    other = tiny_models.save(tmp_path / "other", tiny_models.llama(torch.bfloat16, layers=2))
    (tmp_path / "other.toml").write_text(tiny_models.profile_text(str(other)), encoding="utf-8")
    said = refused(PlanError, gguf, "transformers", profile_files.load(str(tmp_path / "other.toml")))
    assert "its plan is for other weights than the run's model" in said
