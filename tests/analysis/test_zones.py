"""Zones follow their definition: planted layers are found, too few sequences say nothing, and no layer is safe by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import ROBUST, SENSITIVE, decided, planned, profile, run_dict, sensitivity, write

from bitzones.allocation.knapsack import budget_bytes, menu_of
from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.layer_sensitivity import measured_of, ranking
from bitzones.analysis.marginal_costs import separate
from bitzones.analysis.plan import LayerZone, Plan, SplitHalf, ZoneWord
from bitzones.analysis.results import Analysis
from bitzones.analysis.zones import contradicted, extremes, layer_zones, never_lowest, ranges, split_half
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.profile_sections import Budget
from bitzones.schema.record import Record
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import SensitivityCell

FORMATS = ("qint8", "qint4", "qint2:hqq")


def analysis_of(tmp_path: Path, cell: SensitivityCell, bits: float = 4.0, formats: tuple[str, ...] = FORMATS) -> Analysis:
    of = profile(budget=Budget(average_bits=bits), formats=formats)
    return analyse(read_run(write(tmp_path, run_dict([cell], of))))


def zone_of(analysis: Analysis) -> dict[int, str]:
    return {item.layer: item.zone for item in decided(analysis).layer_zones}


def test_planted_layers_are_found(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, sensitivity())
    zones = zone_of(analysis)
    assert [layer for layer, zone in zones.items() if zone == "SAFE"] == list(ROBUST)
    assert all(zones[layer] != "SAFE" for layer in SENSITIVE)
    assert {item.layer for item in analysis.ranking[:2]} == set(SENSITIVE)
    assert {item.layer for item in analysis.ranking[-3:]} == set(ROBUST)


def test_zones_are_sets_and_sum_to_the_plan(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, sensitivity())
    assert sorted(layer for zone in decided(analysis).zones for layer in zone.layers) == list(range(12))
    assert sum(zone.plan_bytes for zone in decided(analysis).zones) == decided(analysis).plan.achieved.stored_bytes
    assert sum(zone.reference_bytes for zone in decided(analysis).zones) == decided(analysis).plan.reference_bytes
    assert decided(analysis).plan.achieved.stored_bytes <= decided(analysis).plan.budget.stored_bytes
    for unit in decided(analysis).units:
        assert sum(unit.shares.values()) == pytest.approx(1.0)


def test_a_budget_for_the_lowest_format_alone_puts_all_layers_there(tmp_path: Path) -> None:
    """SAFE is relative to a budget: where nothing else fits, every layer is, whatever its KL."""
    assert set(zone_of(analysis_of(tmp_path, sensitivity(), 2.34)).values()) == {"SAFE"}


def test_a_tolerance_takes_the_fewest_bytes_whose_sum_keeps_it(tmp_path: Path) -> None:
    def at(budget: Budget) -> Plan:
        found = analyse(read_run(write(tmp_path, run_dict([sensitivity()], profile(budget=budget, formats=FORMATS)))))
        return decided(found).plan

    plan = at(Budget(tolerance=0.05))
    assert plan.budget.tolerance == 0.05
    assert plan.predicted_kl.value <= 0.05
    assert plan.achieved.stored_bytes <= plan.budget.stored_bytes
    fewer = (plan.budget.stored_bytes - 1) * 8 / (plan.budget.stored_bytes * 8 / plan.budget.average_bits)
    assert at(Budget(average_bits=fewer)).predicted_kl.value > 0.05
    assert at(Budget(tolerance=0.5)).achieved.stored_bytes < plan.achieved.stored_bytes


def test_a_tolerance_like_a_variant_is_the_sum_of_its_sensitivities(tmp_path: Path) -> None:
    cell = sensitivity()
    of = profile(budget=Budget(tolerance="like:w4"), formats=FORMATS)
    plan = decided(analyse(read_run(write(tmp_path, run_dict([cell], of))))).plan
    at_four = [sum(item.kl_nats or ()) for item in cell.measurements if item.format == "qint4"]
    assert plan.budget.tolerance == pytest.approx(sum(at_four) / sum(cell.sequence_tokens))
    assert plan.predicted_kl.value <= (plan.budget.tolerance or 0)
    assert plan.achieved.stored_bytes <= sum(item.stored_bytes for item in cell.measurements if item.format == "qint4")


def test_staying_at_the_reference_is_critical(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, sensitivity(), 16.0)
    assert set(decided(analysis).plan.units.values()) == {"bf16"}
    assert set(zone_of(analysis).values()) == {"CRITICAL"}
    assert decided(analysis).plan.predicted_kl.value == 0
    assert decided(analysis).plan.group_sizes == {}


def test_no_layer_is_safe_is_an_answer(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, sensitivity(), 8.09)
    assert "SAFE" not in {zone.zone for zone in decided(analysis).zones}


def test_too_few_sequences_cannot_tell(tmp_path: Path) -> None:
    few, enough = (analysis_of(tmp_path, sensitivity(sequences=n)) for n in (19, 20))
    assert set(zone_of(few).values()) == {"INCONCLUSIVE"}
    assert not any(item.told_from_next for item in few.ranking)
    assert (few.inconclusive[0].code, few.inconclusive[0].n) == ("few_sensitivity_sequences", 19)
    assert "INCONCLUSIVE" not in zone_of(enough).values()


def test_agreement_is_a_share_of_all_resamples_and_of_all_units() -> None:
    cell = sensitivity(layers=2, groups=("attn", "mlp"))
    measured, menu = measured_of(cell, FORMATS, 50, 0), menu_of(cell, FORMATS, "bf16")
    plans = np.full((10, 4), 2)
    plans[0, 1] = 1  # one unit of layer 0 in one plan of ten
    plans[:2, 3] = 0  # one unit of layer 1 in two
    first, second = layer_zones(measured, menu, plans[0], plans, agreement=0.9)
    assert (first.zone, first.lowest_share) == ("SAFE", 0.9)
    assert (first.formats, second.formats) == ({"qint4": 1, "qint2:hqq": 1}, {"qint8": 1, "qint2:hqq": 1})
    assert (second.zone, second.lowest_share) == ("TRANSITION", 0.8)
    plans[:] = [0, 3, 0, 1]
    first, second = layer_zones(measured, menu, plans[0], plans, agreement=0.9)
    assert (first.zone, first.highest_share, second.zone) == ("CRITICAL", 1.0, "TRANSITION")


GROUPS = ("attn.qkv", "attn.o", "mlp.gate_up", "mlp.down")


def planted(kl: dict[str, float], layers: int = 3) -> SensitivityCell:
    """Groups whose KL at 2 bits is 1 per token in every sequence, or as given, and a hundredth of that at 8 and 4 bits."""
    cell = sensitivity(layers=layers, sequences=24, groups=GROUPS)
    share = {"qint8": 0.01, "qint4": 0.01, "qint2:hqq": 1.0}
    tokens = np.array(cell.sequence_tokens, dtype=float)
    measurements = [
        item.model_copy(update={"kl_nats": tuple((kl.get(item.unit, 1.0) * share[item.format] * tokens).tolist())})
        for item in cell.measurements
    ]
    return cell.model_copy(update={"measurements": tuple(measurements)})


def test_a_layer_of_groups_is_what_all_its_groups_are(tmp_path: Path) -> None:
    """By hand: the groups of layer 0 and one of layer 1 are dear at 2 bits. Five 4-bit groups are 4.33 * 5 + 2.33 * 7 = 37.96 of 12 bits,
    3.164 on average, and there is room for no sixth below 3.33."""
    dear = {f"layers.0.{group}": 5.0 for group in GROUPS} | {"layers.1.mlp.down": 4.0}
    analysis = analysis_of(tmp_path, planted(dear), 3.2)
    decision = decided(analysis)
    assert zone_of(analysis) == {0: "TRANSITION", 1: "TRANSITION", 2: "SAFE"}
    assert [item.formats for item in decision.layer_zones] == [{"qint4": 4}, {"qint4": 1, "qint2:hqq": 3}, {"qint2:hqq": 4}]
    assert [item.lowest_share for item in decision.layer_zones] == [0.0, 0.0, 1.0]
    assert {unit.group for unit in decision.units if unit.layer == 1 and unit.format == "qint4"} == {"mlp.down"}
    assert [zone.layers for zone in decision.zones] == [(2,), (0, 1)]
    assert analysis.granularity == "group"
    assert decision.plan.predicted_kl.value == pytest.approx(7 * 1.0 + 0.01 * (4 * 5.0 + 4.0))


def test_a_layer_of_groups_is_critical_where_all_are_at_the_most_bits(tmp_path: Path) -> None:
    """By hand: 8 bits hurt no more than 4, so no group is at 8; what stays at the reference does nothing at all, and four groups can."""
    dear = {f"layers.0.{group}": 500.0 for group in GROUPS}
    analysis = analysis_of(tmp_path, planted(dear), (4 * 16 + 8 * 4.33) / 12 + 0.05)
    assert zone_of(analysis)[0] == "CRITICAL"
    assert decided(analysis).layer_zones[0].formats == {"bf16": 4}
    assert set(zone_of(analysis).values()) == {"CRITICAL", "TRANSITION"}


def test_a_layer_s_rank_is_the_sum_of_its_groups(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, planted({"layers.2.attn.o": 9.0, "layers.1.attn.o": 3.0}), 3.2)
    assert [(item.layer, item.kl.value) for item in analysis.ranking] == [(2, pytest.approx(12.0)), (1, pytest.approx(6.0)), (0, 4.0)]


def test_one_format_is_lowest_and_only_the_reference_highest(tmp_path: Path) -> None:
    assert extremes(("qint4",), "bf16") == (("qint4",), ("bf16",))
    zones = zone_of(analysis_of(tmp_path, sensitivity(formats=("qint4",)), 10.0, ("qint4",)))
    assert "SAFE" in zones.values()
    assert all(zones[layer] == "CRITICAL" for layer in SENSITIVE)


def test_a_layer_that_failed_at_the_lowest_format_is_never_safe(tmp_path: Path) -> None:
    cell = sensitivity()
    at = 3 * 3 + 2
    failed = cell.measurements[at].model_copy(update={"kl_nats": None, "failure": "NaN"})
    cell = cell.model_copy(update={"measurements": (*cell.measurements[:at], failed, *cell.measurements[at + 1 :])})
    analysis = analysis_of(tmp_path, cell, 4.0)
    assert zone_of(analysis)[3] != "SAFE"
    assert 3 not in {item.layer for item in analysis.ranking}
    assert "qint2:hqq" not in next(unit for unit in decided(analysis).units if unit.layer == 3).shares


def test_intervals_hold_the_estimate_and_shrink_with_sequences(tmp_path: Path) -> None:
    few, many = (analysis_of(tmp_path, sensitivity(sequences=n)) for n in (24, 240))
    widths = []
    for analysis in (few, many):
        found = [item.kl for item in analysis.sensitivity if item.kl is not None]
        assert all(kl.low <= kl.value <= kl.high for kl in found)
        widths.append(np.mean([(kl.high - kl.low) / kl.value for kl in found]))
    assert widths[1] < widths[0] / 2


def test_sensitivity_is_per_token_and_ignores_empty_sequences() -> None:
    cell = sensitivity(layers=1, sequences=3)
    first = cell.measurements[0].model_copy(update={"kl_nats": (1.0, 2.0, 0.0)})
    cell = cell.model_copy(update={"sequence_tokens": (10, 5, 0), "measurements": (first,)})
    measured = measured_of(cell, FORMATS, 50, 0)
    assert measured.sequences == 2
    assert measured.mean[0, 0] == pytest.approx(3 / 15)
    assert np.isfinite(measured.resampled).all()
    assert set(np.unique(measured.resampled[:, 0, 0].round(6))) <= {0.1, 0.2, 0.4}


def test_order_is_told_only_where_pairs_differ() -> None:
    cell = sensitivity(layers=3)
    base = np.array(cell.measurements[2].kl_nats)
    noisy = base * np.random.default_rng(1).lognormal(0, 0.5, len(base))
    kls = {0: 10 * base, 1: noisy * base.sum() / noisy.sum() * 1.001, 2: base}
    measurements = tuple(m.model_copy(update={"kl_nats": tuple(kls[index // 3].tolist())}) for index, m in enumerate(cell.measurements))
    first, second, third = ranking(measured_of(cell.model_copy(update={"measurements": measurements}), FORMATS, 50, 0))
    assert (first.layer, first.told_from_next, first.best_rank, first.worst_rank) == (0, True, 1, 1)
    assert (second.told_from_next, second.best_rank, second.worst_rank) == (False, 2, 3)
    assert third.told_from_next is None


def test_plan_names_every_module_and_what_made_it(tmp_path: Path) -> None:
    plan = decided(analysis_of(tmp_path, sensitivity())).plan
    assert len(plan.assignment) == 24
    assert plan.assignment["model.layers.3.q_proj"] == plan.units["layers.3"] == "qint2:hqq"
    assert plan.group_sizes["model.layers.3.q_proj"] == 96
    assert plan.model is not None
    assert (plan.model.source, plan.model.sha256) == ("embedded:tiny", "m" * 64)
    assert plan.measured_kl is None
    assert plan.predicted_kl.low < plan.predicted_kl.value < plan.predicted_kl.high


@pytest.mark.parametrize(("lowest", "agreement", "critical"), [(20, 0.9, True), (21, 0.9, False), (0, 1.0, True), (1, 1.0, False)])
def test_critical_is_what_enough_plans_keep_above_the_lowest_format(lowest: int, agreement: float, critical: bool) -> None:
    """To the last plan of 200: the share that agrees counts, not a rounded rest."""
    zone = LayerZone(layer=7, zone="TRANSITION", formats={"qint4": 1}, lowest_share=lowest / 200, highest_share=0.0)
    assert never_lowest([zone], agreement) == ((7,) if critical else ())


def test_rules_of_thumb_are_tested_on_the_layers_that_the_plans_keep(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, sensitivity())
    assert analysis.rules is not None
    never = {item.layer for item in decided(analysis).layer_zones if item.lowest_share == 0}
    assert set(SENSITIVE) <= never <= set(analysis.rules.critical)
    assert not set(ROBUST) & set(analysis.rules.critical)
    assert (analysis.rules.format, analysis.rules.budget.average_bits, analysis.rules.agreement) == ("qint2:hqq", 4.0, 0.9)
    depth = next(item for item in analysis.rules.rules if item.rule == "last quarter critical")
    assert (depth.layers, depth.critical, depth.flagged) == (12, len(analysis.rules.critical), (9, 10, 11))


def test_the_order_of_measurements_changes_nothing(tmp_path: Path) -> None:
    cell = sensitivity()
    turned = cell.model_copy(update={"measurements": cell.measurements[::-1]})
    assert analysis_of(tmp_path, cell) == analysis_of(tmp_path, turned)


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_exactly_their_layers(layers: set[int]) -> None:
    text = ranges(tuple(layers))
    ends = [step.split("-") for step in text.split(", ")] if layers else []
    assert {layer for end in ends for layer in range(int(end[0]), int(end[-1]) + 1)} == layers
    assert len(ends) == sum(layer - 1 not in layers for layer in layers)


def tied(tmp_path: Path, found: list[Record]) -> Analysis:
    return analyse(read_run(write(tmp_path, run_dict(found))))


def test_zones_are_drawn_around_the_plan_that_was_searched(tmp_path: Path) -> None:
    """Planted: the searched plan moves a layer from where separate sensitivities have it, and the zones follow the plan."""
    found = planned()
    analysis = tied(tmp_path, found)
    decision = decided(analysis)
    assert (decision.around, decision.contradicted) == ("plan", ())
    assert [half.around for half in decision.split_half] == ["plan", "reference"]
    search = next(cell for cell in found if isinstance(cell, SearchCell))
    moved = [unit for unit, name in search.found.units.items() if search.start.units[unit] != name]
    assert moved
    separately = decided(tied(tmp_path, [cell for cell in found if not isinstance(cell, SearchCell)]))
    assert (separately.around, [half.around for half in separately.split_half]) == ("reference", ["reference"])
    shares = [{unit.unit: unit.shares.get(search.start.units[unit.unit], 0.0) for unit in at.units} for at in (decision, separately)]
    assert all(shares[0][unit] < 0.5 < shares[1][unit] for unit in moved)


def test_the_same_run_twice_has_the_same_zones(tmp_path: Path) -> None:
    first, second = (decided(tied(tmp_path, planned(sequences=44))) for _ in range(2))
    assert first == second


def test_a_plan_that_does_not_follow_the_zones_is_told_for_every_layer() -> None:
    cell = sensitivity(layers=4)
    menu = menu_of(cell, FORMATS, "bf16")
    stored = ({"qint4": 1}, {"qint2:hqq": 1}, {"qint2:hqq": 1}, {"bf16": 1})
    words: tuple[ZoneWord, ...] = ("SAFE", "CRITICAL", "SAFE", "CRITICAL")
    layers = [
        LayerZone(layer=n, zone=word, formats=formats, lowest_share=1.0, highest_share=0.0)
        for n, (word, formats) in enumerate(zip(words, stored, strict=True))
    ]
    assert contradicted(layers, menu) == (0, 1)
    assert contradicted([item.model_copy(update={"zone": "TRANSITION"}) for item in layers], menu) == ()


def by_split_half(even: float, odd: float, sequences: int = 40) -> SplitHalf:
    """Two layers at 3.3 average bits, of which one can have 4 bits; the second is dearer at 2 bits, by as much in each half."""
    cell = sensitivity(layers=2, sequences=sequences)
    tokens = np.array(cell.sequence_tokens, dtype=float)
    dear = np.where(np.arange(sequences) % 2 == 0, even, odd) * tokens
    kl = [0.0 * tokens, 0.0 * tokens, tokens, 0.0 * tokens, 0.0 * tokens, dear]
    measurements = tuple(item.model_copy(update={"kl_nats": tuple(kl[n].tolist())}) for n, item in enumerate(cell.measurements))
    measured = measured_of(cell.model_copy(update={"measurements": measurements}), FORMATS, 50, 0)
    menu, run = menu_of(measured.cell, FORMATS, "bf16"), Run.model_validate(run_dict([cell])["bitzones"])
    return split_half(measured, separate(measured, menu), run, budget_bytes(menu, 3.4))


def test_halves_that_say_the_same_hold() -> None:
    found = by_split_half(9.0, 9.0)
    assert (found.sequences, found.layers, found.agree, found.holds) == ((20, 20), (0, 1), (0, 1), True)
    assert found.zones == (("SAFE", "TRANSITION"), ("SAFE", "TRANSITION"))


def test_halves_that_differ_do_not_hold() -> None:
    found = by_split_half(9.0, 0.1)
    assert found.zones == (("SAFE", "TRANSITION"), ("TRANSITION", "SAFE"))
    assert (found.agree, found.holds) == ((), False)


def test_halves_of_too_few_sequences_cannot_tell() -> None:
    found = by_split_half(9.0, 9.0, 39)
    assert found.sequences == (20, 19)
    assert (found.zones[1], found.agree, found.holds) == (("INCONCLUSIVE", "INCONCLUSIVE"), None, None)
