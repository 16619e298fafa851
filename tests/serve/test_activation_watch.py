"""Thresholds of activations on a model in use: the run's own statistics, at a sampling rate, without a change to what it computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
import torch

from bitzones.data.sequences import SequenceSet, TokenSequence, batches
from bitzones.models import structure
from bitzones.schema.errors import ArgumentError, OutputError
from bitzones.schema.layer_statistics import LayerStatistics
from bitzones.sensitivity import activation_stats
from bitzones.serve import activation_watch
from bitzones.serve.activation_watch import ActivationWatch

MODEL = tiny_models.llama()
IDS = torch.tensor([[0, 5, 9, 33, 7, 60, 12, 99, 100, 41]])


def measured(ids: torch.Tensor) -> tuple[LayerStatistics, ...]:
    chosen = SequenceSet((TokenSequence(tuple(ids[0].tolist()), ids.shape[1] - 1, (2, 3)),))
    return activation_stats.measure(MODEL, list(structure.decoder_layers(MODEL).values()), lambda: batches(chosen, 1, torch.device("cpu")))


IN_RUN = measured(IDS)


def moved(**changes: float) -> tuple[LayerStatistics, ...]:
    return tuple(layer.model_copy(update=changes) for layer in IN_RUN)


@torch.no_grad()
def test_a_sampled_pass_computes_what_it_did_and_gives_the_runs_figures() -> None:
    before = MODEL(input_ids=IDS).logits
    with ActivationWatch(MODEL, IN_RUN, (), 1.0) as watch:
        during = MODEL(input_ids=IDS).logits
    assert torch.equal(before, during)
    assert (watch.passes, watch.sampled) == (1, 1)
    for rule in watch.reading().rules:
        if rule.statistic != "focus":
            assert rule.flagged == rule.flagged_in_run
            assert rule.crossed == ()
    assert MODEL.config._attn_implementation == "sdpa", "attention is computed as before"
    MODEL(input_ids=IDS)
    assert watch.passes == 1, "no hook is left"


@torch.no_grad()
def test_decoding_padding_and_the_rate() -> None:
    with ActivationWatch(MODEL, IN_RUN, (), 0.2, seed=1) as watch:
        MODEL(input_ids=IDS[:, :1])
        assert watch.passes == 0, "one token has no statistics"
        for _ in range(40):
            MODEL(input_ids=IDS[:, :3])
    assert watch.passes == 40
    assert 2 <= watch.sampled <= 16
    padded = torch.cat([IDS, torch.zeros(1, 4, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * 10 + [0] * 4])
    with ActivationWatch(MODEL, IN_RUN, (), 1.0) as watch:
        MODEL(input_ids=padded, attention_mask=mask)
    assert watch._values["magnitude", 0][0] == pytest.approx(IN_RUN[0].magnitude, rel=1e-5)


def test_generation_is_watched_at_its_prompt() -> None:
    with ActivationWatch(MODEL, IN_RUN, (), 1.0) as watch:
        MODEL.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert (watch.passes, watch.sampled) == (1, 1)


@torch.no_grad()
def test_a_layer_that_crossed_a_threshold_is_told_where_its_interval_excludes_it() -> None:
    """In the run all layers were beyond 4.0; here none is."""
    assert all(layer.magnitude < 4 for layer in IN_RUN)
    rng = torch.Generator().manual_seed(0)
    with ActivationWatch(MODEL, moved(magnitude=5.0), (), 1.0) as watch:
        for count in range(25):
            MODEL(input_ids=torch.randint(1, 250, (1, 12), generator=rng))
            rule = next(rule for rule in watch.reading().rules if rule.statistic == "magnitude")
            assert bool(rule.crossed) == (count + 1 >= 20), "fewer passes tell nothing"
    assert rule.flagged_in_run == (0, 1, 2)
    assert rule.flagged == ()
    assert [crossing.layer for crossing in rule.crossed] == [0, 1, 2]
    assert all(crossing.low <= crossing.served <= crossing.high < 4 < crossing.run for crossing in rule.crossed)
    assert rule.verdict == "not measured"


def test_focus_is_read_where_the_content_is_known(tmp_path: Path) -> None:
    watch = ActivationWatch(MODEL, IN_RUN, (), 1.0)
    watch.observe(TokenSequence(tuple(IDS[0].tolist()), 9, (2, 3)))
    assert watch._values["focus", 1][0] == pytest.approx(IN_RUN[1].attention.reasoning_focus)  # type: ignore[union-attr]
    watch.write(tmp_path / "activations.json")
    written = json.loads((tmp_path / "activations.json").read_text(encoding="utf-8"))
    assert {rule["statistic"] for rule in written["rules"]} == {"sparsity", "entropy", "focus", "magnitude"}


def test_it_writes_itself_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "activations.json"

    def sampled() -> int:
        number = json.loads(path.read_text(encoding="utf-8"))["sampled"]
        assert isinstance(number, int)
        return number

    with ActivationWatch(MODEL, IN_RUN, (), 1.0, path=path):
        assert sampled() == 0
        MODEL(input_ids=torch.tensor([[1, 2, 3]]))
        assert sampled() == 0, "a minute is not over"
        monkeypatch.setattr(activation_watch, "WRITTEN_EVERY_S", 0.0)
        MODEL(input_ids=torch.tensor([[1, 2, 3]]))
        assert sampled() == 2
        monkeypatch.undo()
        MODEL(input_ids=torch.tensor([[1, 2, 3]]))
    assert sampled() == 3


def test_a_place_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), ActivationWatch(MODEL, IN_RUN, (), 1.0, path=tmp_path / "file" / "activations.json"):
        pass


def test_a_pass_that_is_not_finite_is_counted() -> None:
    model = tiny_models.llama()
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight").fill_(float("nan"))
    watch = ActivationWatch(model, IN_RUN, (), 1.0)
    watch.observe(TokenSequence((0, 1, 2), 2, ()))
    assert (watch.sampled, watch.failed) == (0, 1)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.1])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ArgumentError):
        ActivationWatch(MODEL, IN_RUN, (), rate)
