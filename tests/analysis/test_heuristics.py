"""Rules of thumb are judged by what was planted: right, reversed, random, without order, without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, spearmanr

from bitzones.analysis.heuristics import audit
from bitzones.analysis.layer_sensitivity import Measured, measured_of
from bitzones.analysis.plan_verdicts import RuleReading
from bitzones.analysis.rules_of_thumb import RULES, statistics
from bitzones.schema.layer_statistics import AttentionStatistics, LayersCell, LayerStatistics
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.stats.intervals import MIN_SEQUENCES, wilson_interval
from bitzones.stats.significance import holm

FORMATS = ("qint4", "qint2")
RISING = tuple(float(value) for value in range(1, 31))
TOP = frozenset(range(24, 30))


def measured(
    values: Sequence[float | None],
    kurtosis: Sequence[float | None] | None = None,
    error: Sequence[float | None] | None = None,
    sequences: int = 24,
    noise: float = 0.0,
    numbers: Sequence[int] | None = None,
) -> Measured:
    """One unit per layer; ``values`` are its KL per token at the lowest format, None where it could not be measured."""
    rng = np.random.default_rng(3)
    units, found = [], []
    for at, value in enumerate(values):
        layer = numbers[at] if numbers else at
        name = f"layers.{layer}"
        tails = kurtosis[at] if kurtosis else None
        units.append(Unit(name=name, layer=layer, modules=(name,), parameters=64, reference_bytes=128, weight_kurtosis=tails))
        for format_ in FORMATS:
            # The higher format is planted in reverse: whoever reads it instead of the lowest finds the opposite.
            planted = None if value is None else value if format_ == "qint2" else 1000 - value
            kl = None if planted is None else tuple((10 * planted * rng.lognormal(0, noise, sequences)).tolist())
            found.append(
                UnitSensitivity(
                    unit=name,
                    format=format_,
                    stored_bytes=8,
                    group_sizes=(None,),
                    kl_nats=kl,
                    weight_error=error[at] if error and format_ == "qint2" else None,
                    failure=None if kl else "NaN",
                )
            )
    cell = SensitivityCell(
        variant="bf16",
        method="exact",
        sequences_sha256="c" * 64,
        sequence_tokens=(10,) * sequences,
        units=tuple(units),
        measurements=tuple(found),
    )
    full = measured_of(cell, FORMATS, 200, 0)
    return replace(full, resampled=full.resampled[:200])


def layers(
    n: int,
    sparsity: Sequence[float] = (),
    magnitude: Sequence[float] = (),
    peak: Sequence[float] = (),
    entropy: Sequence[float | None] = (),
    focus: Sequence[float | None] = (),
) -> LayersCell:
    def attention(at: int) -> AttentionStatistics | None:
        value = entropy[at] if entropy else 2.0
        if value is None:
            return None
        return AttentionStatistics(
            entropy_nats=value,
            entropy_nats_by_head=(value,),
            head_specialization=0.5,
            reasoning_focus=focus[at] if focus else None,
            reasoning_focus_std=None,
            reasoning_focus_sequences=1,
        )

    found = tuple(
        LayerStatistics(
            layer=at,
            mean=0.0,
            std=1.0,
            magnitude=magnitude[at] if magnitude else 1.0,
            peak=peak[at] if peak else 5.0,
            sparsity=sparsity[at] if sparsity else 0.01,
            kurtosis=3.0,
            attention=attention(at),
        )
        for at in range(n)
    )
    return LayersCell(variant="bf16", sequences=24, tokens=240, layers=found)


def read(rule: str, *args: object, **kwargs: object) -> RuleReading:
    return next(item for item in audit(*args, **kwargs) if item.rule == rule)  # type: ignore[arg-type]


def test_a_perfect_order_holds() -> None:
    item = read("weight kurtosis", measured(RISING, kurtosis=RISING), None, TOP)
    assert item.spearman is not None
    assert item.spearman.value == 1
    assert (item.precision, item.recall) == (wilson_interval(6, 6), wilson_interval(6, 6))
    assert (item.flagged, item.base_rate, item.layers, item.critical) == (tuple(range(24, 30)), 0.2, 30, 6)
    assert item.verdict == "holds"


def test_a_reversed_order_does_not_hold() -> None:
    item = read("weight kurtosis", measured(RISING, kurtosis=RISING[::-1]), None, TOP)
    assert item.spearman is not None
    assert (item.spearman.value, item.p, item.p_adjusted) == (-1, 1, 1)
    assert item.flagged == tuple(range(6))
    assert (item.precision, item.recall) == (wilson_interval(0, 6), wilson_interval(0, 6))
    assert item.verdict == "does not hold"


def test_correlation_and_p_are_scipys() -> None:
    rng = np.random.default_rng(5)
    score = (np.array(RISING) + rng.normal(0, 12, 30)).clip(0.1).tolist()
    item = read("weight kurtosis", measured(RISING, kurtosis=score), None, TOP)
    expected = spearmanr(score, RISING, alternative="greater")
    assert item.spearman is not None
    assert (item.spearman.value, item.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_sensitivity_that_is_uncertain_widens_the_interval() -> None:
    """The same order of layers, known from sequences that agree and from ones that do not."""
    rng = np.random.default_rng(5)
    values = (2 + 0.01 * np.array(RISING)).tolist()
    score = (np.array(RISING) + rng.normal(0, 5, 30)).clip(0.1).tolist()
    exact, vague = (read("weight kurtosis", measured(values, score, noise=noise), None, TOP).spearman for noise in (0.0, 0.5))
    assert exact is not None
    assert vague is not None
    at_value = np.arctanh([[interval.low, interval.value, interval.high] for interval in (exact, vague)])
    assert at_value[1, 2] - at_value[1, 1] > 1.1 * (at_value[0, 2] - at_value[0, 1])


def test_random_rules_rarely_hold() -> None:
    """Of 60 audits in which four independent random orders are tested together, at most 5% find one that holds."""
    rng, found = np.random.default_rng(11), []
    values = rng.permutation(RISING)
    source, critical = measured(values.tolist()), frozenset(np.argsort(values)[-6:].tolist())
    for _ in range(60):
        a, b, c, d = (rng.uniform(0.2, 0.6, 30).tolist() for _ in range(4))
        readings = audit(source, layers(30, sparsity=a, magnitude=b, peak=c, entropy=d), critical)
        assert sum(item.p is not None for item in readings) >= 4
        found.append({item.verdict for item in readings})
    assert sum("holds" in verdicts for verdicts in found) <= 3
    assert all(verdicts & {"inconclusive", "does not hold"} for verdicts in found)


@settings(max_examples=30)
@given(
    score=st.lists(st.integers(1, 8), min_size=12, max_size=12),
    values=st.lists(st.integers(0, 8), min_size=12, max_size=12),
    critical=st.frozensets(st.integers(0, 13)),
)
def test_only_the_order_of_a_statistic_counts(score: list[int], values: list[int], critical: frozenset[int]) -> None:
    plain = audit(measured(values, kurtosis=score), None, critical)
    bent = audit(measured(values, kurtosis=[value**3 for value in score]), None, critical)
    assert [item.model_copy(update={"values": {}}) for item in plain] == [item.model_copy(update={"values": {}}) for item in bent]
    for item in plain:
        assert item.reason
        assert (item.p is None) == (item.p_adjusted is None)
        assert item.p is None or item.p <= (item.p_adjusted or 0) <= 1
        assert item.p is not None or item.verdict in {"not measured", "nothing to test", "inconclusive"}
        assert set(item.flagged) <= set(range(12))


def test_p_values_are_corrected_over_the_rules_that_are_tested() -> None:
    readings = audit(measured(RISING, RISING), layers(30, peak=RISING[::-1]), TOP)
    tested = [item for item in readings if item.p is not None]
    assert len(tested) == 4  # two by position, kurtosis, peak
    assert [item.p_adjusted for item in tested] == list(holm([item.p for item in tested if item.p is not None]))


def test_a_statistic_without_order_is_nothing_to_test() -> None:
    item = read("weight kurtosis", measured(RISING, kurtosis=[3.0] * 30), None, TOP)
    assert (item.spearman, item.p, item.flagged, item.precision, item.recall) == (None, None, (), None, None)
    assert (item.verdict, item.reason) == ("nothing to test", "constant_statistic")


def test_sensitivity_without_order_cannot_tell() -> None:
    item = read("weight kurtosis", measured([1.0] * 30, kurtosis=RISING), None, TOP)
    assert (item.spearman, item.verdict, item.reason) == (None, "inconclusive", "equal_sensitivity")


@pytest.mark.parametrize(
    ("seed", "width", "reason"),
    [(9, 30, "correlation_not_told"), (8, 20, "correlation_may_be_slight")],
)
def test_a_middling_order_cannot_tell(seed: int, width: float, reason: str) -> None:
    """Correlations of 0.25, no wonder by chance, and of 0.43, which chance does not explain but which may be next to none."""
    score = (np.array(RISING) + np.random.default_rng(seed).normal(0, width, 30)).clip(0.1).tolist()
    item = read("weight kurtosis", measured(RISING, kurtosis=score), None, TOP)
    assert item.spearman is not None
    assert item.spearman.low < 0.1 < 0.5 < item.spearman.high
    assert item.verdict == "inconclusive"
    assert item.reason == reason


def test_weight_error_is_that_of_the_lowest_format() -> None:
    item = read("weight error", measured(RISING, error=[value / 100 for value in RISING]), None, TOP)
    assert (item.layers, item.verdict) == (30, "holds")


def test_ties_share_the_last_place() -> None:
    score = [1.0] * 20 + [2.0] * 8 + [3.0] * 2
    item = read("weight kurtosis", measured(RISING, kurtosis=score), None, TOP)
    assert item.flagged == tuple(range(20, 30))
    assert item.precision == wilson_interval(6, 10)
    assert item.recall == wilson_interval(6, 6)


def test_a_right_order_that_misses_the_critical_layers_is_not_said_to_hold() -> None:
    score = [*RISING[:24], *[0.5] * 6]
    item = read("weight kurtosis", measured([*RISING[:24], *[0.6] * 6], kurtosis=score), None, TOP)
    assert item.precision == wilson_interval(0, 6)
    assert (item.verdict, item.reason) == ("inconclusive", "top_layers_at_random")


@pytest.mark.parametrize(
    ("rule", "statistic", "above", "below"),
    [
        ("sparsity above 15%", "sparsity", 0.151, 0.15),
        ("magnitude above 4.0", "magnitude", 4.001, 4.0),
        ("focus above 70%", "focus", 0.701, 0.7),
        ("entropy below 1.0", "entropy", 0.999, 1.0),
    ],
)
def test_thresholds_are_those_of_the_claim(rule: str, statistic: str, above: float, below: float) -> None:
    values = [above if layer in TOP else below for layer in range(30)]
    source = measured(RISING)
    item = read(rule, source, layers(30, **{statistic: values}), TOP)
    assert item.flagged == tuple(range(24, 30))
    assert item.p == pytest.approx(hypergeom.sf(5, 30, 6, 6))
    assert item.verdict == "holds"
    wrong = read(rule, source, layers(30, **{statistic: values}), frozenset(range(6)))
    assert (wrong.verdict, wrong.reason) == ("does not hold", "mostly_not_critical")
    nobody = read(rule, source, layers(30, **{statistic: [below] * 30}), TOP)
    assert (nobody.verdict, nobody.reason, nobody.p, nobody.precision) == ("nothing to test", "flags_none", None, None)
    assert nobody.recall == wilson_interval(0, 6)
    everybody = read(rule, source, layers(30, **{statistic: [above] * 30}), TOP)
    assert (everybody.verdict, everybody.reason) == ("nothing to test", "flags_all")


def test_better_than_chance_and_yet_mostly_wrong_is_not_said_to_hold() -> None:
    """40 of 80 flagged, 19 of 20 critical among them: told from chance, but most flagged layers are not critical."""
    values = [0.2 if layer >= 40 else 0.1 for layer in range(80)]
    item = read("sparsity above 15%", measured(range(1, 81)), layers(80, sparsity=values), frozenset(range(39, 59)))
    assert item.precision == wilson_interval(19, 40)
    assert item.p_adjusted is not None
    assert item.p_adjusted < 0.001
    assert item.verdict == "inconclusive"


def test_flags_at_base_rate_are_not_told_from_chance() -> None:
    """8 of 32 flagged, 2 of 8 critical among them: exactly what a random set gets."""
    values = [0.2 if layer < 8 else 0.1 for layer in range(32)]
    item = read("sparsity above 15%", measured(range(1, 33)), layers(32, sparsity=values), frozenset(range(6, 14)))
    assert item.precision is not None
    assert (item.precision.value, item.base_rate, item.verdict) == (0.25, 0.25, "inconclusive")
    assert item.reason == "not_told_from_random"


def test_flags_below_base_rate_do_not_hold() -> None:
    """72 of 80 are critical; the rule flags 40, and all eight that are not critical are among them."""
    values = [0.2 if layer < 40 else 0.1 for layer in range(80)]
    item = read("sparsity above 15%", measured(range(1, 81)), layers(80, sparsity=values), frozenset(range(8, 80)))
    assert item.precision == wilson_interval(32, 40)
    assert (item.verdict, item.reason) == ("does not hold", "worse_than_random")


def test_first_half_safe_is_about_where_critical_layers_lie() -> None:
    """All six in the second half: right, though most of that half is not critical. All six in the first half: wrong."""
    right = read("first half safe", measured(RISING), None, TOP)
    assert (right.flagged, right.recall, right.precision) == (tuple(range(15, 30)), wilson_interval(6, 6), wilson_interval(6, 15))
    assert right.p == pytest.approx(hypergeom.sf(5, 30, 6, 15))
    assert right.verdict == "holds"
    wrong = read("first half safe", measured(RISING), None, frozenset(range(6)))
    assert (wrong.verdict, wrong.reason) == ("does not hold", "mostly_missed")


@pytest.mark.parametrize(("total", "half", "quarter"), [(12, 6, 9), (30, 15, 22), (15, 7, 11)])
def test_position_is_counted_in_the_whole_model(total: int, half: int, quarter: int) -> None:
    readings = {item.rule: item.flagged for item in audit(measured([*range(1, total + 1)]), None, frozenset(), total)}
    assert readings["first half safe"] == tuple(range(half, total))
    assert readings["last quarter critical"] == tuple(range(quarter, total))


def test_a_sweep_over_some_layers_keeps_their_place() -> None:
    source = measured([1.0, 2.0, 3.0], numbers=(0, 10, 16))
    assert read("first half safe", source, None, frozenset(), 30).flagged == (16,)
    assert read("first half safe", source, layers(60), frozenset()).flagged == ()


@pytest.mark.parametrize(("critical", "reason"), [(frozenset(), "none_critical"), (frozenset(range(30)), "all_critical")])
def test_without_a_difference_rules_that_name_layers_have_nothing_to_test(critical: frozenset[int], reason: str) -> None:
    readings = {item.rule: item for item in audit(measured(RISING, kurtosis=RISING), None, critical)}
    named, ordered = readings["last quarter critical"], readings["weight kurtosis"]
    assert (named.verdict, named.reason, named.p) == ("nothing to test", reason, None)
    assert named.base_rate == (1 if critical else 0)
    assert (named.recall is None) == (not critical)
    assert ordered.verdict == "holds"
    assert len(ordered.flagged) == len(critical)


def test_what_was_not_measured_is_said() -> None:
    readings = {item.rule: item for item in audit(measured(RISING), None, TOP)}
    assert {name for name, item in readings.items() if item.verdict == "not measured"} == set(readings) - {
        "first half safe",
        "last quarter critical",
    }
    item = readings["entropy below 1.0"]
    assert (item.reason, item.layers, item.base_rate) == ("no_statistic", 0, None)
    nothing = audit(measured([None] * 30, kurtosis=RISING), layers(30), TOP)
    assert {(item.verdict, item.reason) for item in nothing} == {("not measured", "no_sensitivity")}


def test_layers_without_attention_are_left_out_of_rules_about_it() -> None:
    entropy = [None if layer in {3, 29} else 31.0 - layer for layer in range(30)]
    readings = {item.rule: item for item in audit(measured(RISING), layers(30, entropy=entropy, peak=RISING), TOP)}
    item = readings["entropy"]
    assert (item.layers, item.critical, item.flagged, item.verdict) == (28, 5, tuple(range(24, 29)), "holds")
    assert readings["focus"].verdict == "not measured"
    assert readings["peak activation"].layers == 30


def test_layers_without_sensitivity_are_left_out() -> None:
    values: list[float | None] = [*RISING]
    values[2] = values[29] = None
    item = read("weight kurtosis", measured(values, kurtosis=RISING), None, TOP)
    assert (item.layers, item.critical, item.flagged) == (28, 5, tuple(range(24, 29)))
    assert read("last quarter critical", measured(values), None, TOP).flagged == tuple(range(22, 29))


@pytest.mark.parametrize(("n", "sequences", "reason"), [(9, 24, "few_layers"), (30, 19, "few_sequences")])
def test_too_little_cannot_tell(n: int, sequences: int, reason: str) -> None:
    assert MIN_SEQUENCES == 20
    source = measured(RISING[:n], kurtosis=RISING[:n], sequences=sequences)
    for item in audit(source, None, frozenset({n - 1}), n):
        assert item.verdict == "not measured" or (item.verdict, item.reason, item.p) == ("inconclusive", reason, None)
        assert item.spearman is None


def test_units_of_a_layer_add_up_or_are_averaged() -> None:
    """Two units of 1 and 3 weights: KL is summed, kurtosis averaged by weights, relative errors as squares."""
    units = tuple(
        Unit(name=f"{layer}.{at}", layer=layer, modules=("m",), parameters=(1, 3)[at], reference_bytes=8, weight_kurtosis=(3.0, 7.0)[at])
        for layer in range(2)
        for at in range(2)
    )
    found = tuple(
        UnitSensitivity(unit=unit.name, format="qint2", stored_bytes=1, group_sizes=(None,), kl_nats=(1.0,) * 24, weight_error=error)
        for unit, error in zip(units, (0.2, 0.6, 0.2, None), strict=True)
    )
    cell = SensitivityCell(variant="bf16", method="exact", sequences_sha256="c", sequence_tokens=(1,) * 24, units=units, measurements=found)
    values = statistics(measured_of(cell, ("qint2",), 10, 0), None, 2)
    assert values["weight kurtosis"] == {0: 6.0, 1: 6.0}
    assert values["weight error"] == {0: pytest.approx(((0.04 + 3 * 0.36) / 4) ** 0.5)}
    assert values["depth"] == {0: 0.5, 1: 1.0}


def test_every_rule_is_told_apart_and_has_a_source() -> None:
    assert len({rule.name for rule in RULES}) == len({rule.claim for rule in RULES}) == len(RULES) == 13
    assert all(rule.source for rule in RULES)


def test_the_schema_describes_what_is_not_plain() -> None:
    fields = RuleReading.model_json_schema()["properties"]
    assert [name for name, field in fields.items() if not field.get("description")] == []
