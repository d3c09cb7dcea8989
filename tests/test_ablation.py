"""Ablations: what is changed, what is run, how differences and their errors are computed, and what is made of them."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from alexnet.pipeline.errors import UserError
from alexnet.train.ablation.differences import chance_to_exceed, paired_differences, sampling_error
from alexnet.train.ablation.experiment import Experiment, Run
from alexnet.train.ablation.markdown import Provenance, cells, page
from alexnet.train.ablation.results import Result
from alexnet.train.ablation.table import Row, Table, build_table
from alexnet.train.ablation.variations import VARIATIONS, choose
from alexnet.train.config import Config
from alexnet.train.figures.ablation import draw_ablation
from alexnet.train.figures.drawing import rendered
from alexnet.train.network.size import describe

DATA = {"train": "1", "val": "2"}
NAN = float("nan")


# -- variations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "original"])
def test_every_variation_fits_and_changes_one_thing(preset: str) -> None:
    base = Config.from_preset(preset, width=0.25)
    chosen = choose(base, (), {})
    assert list(chosen) == list(VARIATIONS)
    configs = [Experiment.plan(Path("x"), base, DATA, chosen, 1).config(name) for name in chosen]
    assert len({*configs, base}) == len(chosen) + 1
    assert all(config.epochs == base.epochs and config.width == base.width for config in configs)


@pytest.mark.parametrize("name", VARIATIONS)
def test_no_variation_changes_what_it_should_not(name: str) -> None:
    """The traps: pooling that changes fc6, a single tower with half of conv5 or of fc6."""
    whole, changed = ({row.layer: row for row in describe(Config(**c), 1000)} for c in ({}, VARIATIONS[name].changes))
    assert changed["pool5"].output_shape == whole["pool5"].output_shape == (256, 6, 6)
    assert changed["fc6"].output_shape == whole["fc6"].output_shape
    total = sum(row.parameters for row in changed.values())
    same = name in ("tanh", "no-lrn", "no-overlap", "no-dropout", "no-colour-noise")
    assert (total == 60_965_224) == same
    assert name != "one-gpu" or total == 59_798_312


def test_what_is_reported_follows_from_the_notes() -> None:
    """Of #145 on ILSVRC-2012 and 2010, #148, #147, #150 and the half of #145, all with ten views; and one view."""
    on_2012, on_2010 = (40.664, 18.21), (37.4727, 16.9987)
    logged = {
        "no-lrn": ((42.034, 19.362), on_2012),
        "no-overlap": ((41.058, 18.51), on_2012),
        "no-cross-talk": ((41.83, 19.33), on_2012),
        "one-gpu": ((39.168, 18.2287), on_2010),
    }
    for name, (theirs, base) in logged.items():
        reported = VARIATIONS[name].reported
        assert reported is not None
        assert reported.top1 == pytest.approx(theirs[0] - base[0], abs=0.06)
        assert reported.top5 == pytest.approx(theirs[1] - base[1], abs=0.06)


@pytest.mark.parametrize(
    ("preset", "only", "vary", "message"),
    [
        ("owt", ("no-lrn",), {}, "no-lrn cannot be ablated: the base is like that already"),
        ("one-gpu", ("no-cross-talk",), {}, "no-cross-talk cannot be ablated: the base has only one tower"),
        ("paper", (), {"lrn=on": {"lrn": True}}, "--vary lrn=on: the base has this value already"),
        ("paper", (), {"seed=3": {"seed": 3}}, "seed is the same for all runs"),
        ("paper", (), {"dropout=2": {"dropout": 2.0}}, "dropout = 2.0: choose a number from 0 to 0.99"),
    ],
)
def test_what_is_no_variation_is_refused(preset: str, only: Any, vary: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(Config.from_preset(preset), only, vary)


def test_a_layer_that_the_base_lacks_does_not_come_back() -> None:
    base = Config.from_preset("paper", without=("conv4",))
    assert not {"without-conv2", "without-conv3", "without-conv4"} & choose(base, (), {}).keys()
    with pytest.raises(UserError, match="without-conv2 cannot be ablated: the base lacks conv4, and would get it back"):
        choose(base, ("without-conv2",), {})


@pytest.mark.parametrize(("preset", "crop"), [("paper", 227), ("owt", 227), ("caffe", 224)])
def test_another_crop_is_what_train_makes_of_it(preset: Any, crop: Any) -> None:
    base = Config.from_preset(preset)
    changes = choose(base, ("tanh",), {"crop": {"crop": crop}})["crop"]
    assert replace(base, **changes) == Config.from_preset(preset, crop=crop)


def test_what_does_not_fit_is_left_out() -> None:
    assert not {"no-lrn", "no-colour-noise", "one-gpu", "no-cross-talk"} & {*choose(Config.from_preset("owt"), (), {})}


# -- experiments -------------------------------------------------------------------------------------------


def planned(folder: Path, seeds: int, *names: str, **base: Any) -> Experiment:
    config = Config.from_preset("paper", **base)
    return Experiment.plan(folder, config, DATA, choose(config, names, {}), seeds)


def test_runs_share_their_seeds(tmp_path: Path) -> None:
    experiment = planned(tmp_path, 2, "tanh", seed=5, data_seed=9)
    runs = list(experiment.runs())
    assert [(run.variation, run.seed) for run in runs] == [("base", 5), ("tanh", 5), ("base", 6), ("tanh", 6)]
    assert [run.config.seeds for run in runs] == [(5, 9), (5, 9), (6, 9), (6, 9)]
    assert [run.config.activation for run in runs] == ["relu", "tanh"] * 2
    assert runs[3].folder == tmp_path / "tanh/seed-6"


def test_seeds_that_change_nothing_are_refused(tmp_path: Path) -> None:
    """Equal runs would have a standard error of 0, beside which any difference is large."""
    fixed = {"init_seed": 0, "data_seed": 9}
    with pytest.raises(UserError, match="all runs of a variation would be the same"):
        planned(tmp_path, 2, "tanh", **fixed)
    assert len({run.config.seeds for run in planned(tmp_path, 1, "tanh", **fixed).runs()}) == 1


def test_an_experiment_grows(tmp_path: Path) -> None:
    planned(tmp_path, 2, "tanh", "one-gpu").save()
    planned(tmp_path, 3, "no-lrn", "tanh").save()
    again = planned(tmp_path, 1, "one-gpu")
    assert again.num_seeds == {"base": 3, "tanh": 3, "one-gpu": 2, "no-lrn": 3}
    assert len(list(again.runs())) == 11
    assert again.config("one-gpu") == Config.from_preset("paper", **VARIATIONS["one-gpu"].changes)


@pytest.mark.parametrize(
    ("base", "data", "message"),
    [
        ({"epochs": 3, "lr": 0.1}, DATA, "epochs is 90 there, 3 was asked for; .*lr is 0.01 there|lr is .*epochs"),
        ({"seed": 1}, DATA, "seed is 0 there, 1 was asked for"),
        ({}, {"train": "1", "val": "3"}, "its data set is another one"),
    ],
)
def test_another_experiment_is_refused(tmp_path: Path, base: Any, data: Any, message: str) -> None:
    planned(tmp_path, 2).save()
    with pytest.raises(UserError, match=f"holds another experiment: ({message})"):
        Experiment.plan(tmp_path, Config(**base), data, {}, 2)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match=r"experiment.json is not what `alexnet ablate` wrote"):
        planned(tmp_path, 1)


# -- differences -------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base, others = rng.normal(40, 2, 5), rng.normal(42, 3, (3, 5))
    found = paired_differences(base, others)
    expected = stats.ttest_rel(others, base, axis=1)
    np.testing.assert_allclose(found.mean / found.standard_error, expected.statistic)
    np.testing.assert_allclose(found.mean, others.mean(1) - base.mean())
    spread = np.sqrt(np.var(others - base, axis=1, ddof=1).mean() / 5)  # equal numbers: the mean of the variances
    np.testing.assert_allclose(found.pooled_error, [spread] * 3)
    assert found.pooled_degrees == 12
    assert chance_to_exceed(2.0, 4) == pytest.approx(stats.ttest_1samp([-1, 0, 1, 2, 3], 1 - np.sqrt(2)).pvalue)


def test_two_seeds_by_hand_and_missing_runs() -> None:
    others = [[11, 23, 1], [15, NAN, 1], [NAN, NAN, 1], [12, 22, NAN]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired_differences([10, 20, NAN], np.array(others, float))
    np.testing.assert_allclose(found.mean, [2, 5, NAN, 2])
    np.testing.assert_allclose(found.standard_error, [1, NAN, NAN, 0])  # half of what lies between the two
    pooled = np.sqrt((2 + 0) / 2)  # squares about the means, over the degrees of freedom
    np.testing.assert_allclose(found.pooled_error, [pooled / 2**0.5, pooled, NAN, pooled / 2**0.5])
    assert found.num_pairs.tolist() == [2, 1, 0, 2]
    assert found.clear(2).tolist() == [False, False, False, True]
    assert found.clear(1.9).tolist() == [True, False, False, True]


def test_sampling_error_is_the_spread_of_what_is_counted() -> None:
    counts = np.random.default_rng(1).binomial(1000, 0.38, 20_000) / 1000
    assert sampling_error(0.38, 1000) == pytest.approx(counts.std(), rel=0.03)


# -- the table ---------------------------------------------------------------------------------------------


def table_of(errors: Callable[[Run], Result | None], *names: str, views: int = 10, seeds: int = 2) -> Table:
    experiment = planned(Path("none"), seeds, *names, views=views)
    return build_table(experiment, {run: errors(run) for run in experiment.runs()}, guess_error=0.95)


def measured(top1: float, top5: float) -> Result:
    one_view = (top1 + 0.02, top5 + 0.01)
    return Result(errors={"1": one_view, "10": (top1, top5)}, num_images=1000, seconds=60)


def by_name(table: Table) -> dict[str, Row]:
    return {row.name: row for row in table.rows}


def four_ends(run: Run) -> Result | None:
    """tanh gets worse by 4 and 6 points, no-lrn diverges once, no-overlap guesses, no-dropout has yet to be run."""
    if run.variation == "no-dropout":
        return None
    if run.variation == "no-lrn" and run.seed == 1:
        return Result(diverged="The loss became nan.")
    if run.variation == "no-overlap":
        return measured(0.93 + 0.001 * run.seed, 0.7)
    worse = (0.04 + 0.02 * run.seed) * (run.variation == "tanh")
    return measured(0.40 + 0.01 * run.seed + worse, 0.10 + worse / 2)


ENDS = ("tanh", "no-lrn", "no-overlap", "no-dropout")


def test_rows_hold_errors_and_differences() -> None:
    table = table_of(four_ends, *ENDS)
    rows = by_name(table)
    assert list(rows) == ["base", *ENDS, "one-view"]
    assert (table.num_over, table.num_runs, table.complete) == (8, 10, False)
    np.testing.assert_allclose(rows["base"].errors, (40.5, 10))
    tanh, missing, view = (rows[name].difference for name in ("tanh", "no-dropout", "one-view"))
    assert tanh is not None
    assert missing is not None
    assert view is not None
    np.testing.assert_allclose((tanh.mean, tanh.standard_error), [(5, 2.5), (1, 0.5)])
    assert tanh.clear == (True, True)
    np.testing.assert_allclose(view.mean, (2, 1))
    assert missing.num_pairs == 0
    assert [rows[n].num_diverged for n in ENDS] == [0, 1, 0, 0]
    assert [rows[n].num_stuck for n in ("base", *ENDS)] == [0, 0, 0, 2, 0]
    np.testing.assert_allclose(table.sampling_errors, (1.552, 0.949), atol=1e-3)


def test_records_are_json_without_nan() -> None:
    record = json.loads(json.dumps(table_of(four_ends, *ENDS).record(), allow_nan=False))
    assert record["rows"][4]["errors"] == [None, None]
    assert record["rows"][1]["difference"]["mean"] == pytest.approx([5, 2.5])
    assert record["complete"] is False


def test_one_view_has_a_row_only_beside_ten() -> None:
    assert [row.name for row in table_of(four_ends, "tanh", views=1).rows] == ["base", "tanh"]


def test_the_page_says_how_far_numbers_can_be_trusted() -> None:
    source = Provenance(command="alexnet ablate x", base="preset paper", data="d", seeds="0, 1", machine="m")
    text = page(table_of(four_ends, *ENDS), source)
    for part in (
        "**Incomplete: 8 of 10 runs are over.**",
        "`alexnet ablate x`",
        "| tanh: tanh instead of ReLU | 2 | 45.50 | 12.50 | +5.00 ± 1.00 | +2.50 ± 0.50 | yes / yes | - / - |",
        "1 of 2 (1 diverged)",
        "2 (2 no better than guessing)",
        "From 2 seeds it has 1 degree of freedom, which says little by itself.",
        "on 1,000 images the base's errors have standard errors of 1.6 and 0.9 points",
        "ILSVRC-2012 validation, ten views (paper s3.3; [O] #148 less #145)",
    ):
        assert part in text, part
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {10}
    assert len(lines) == 2 + 6
    whole = page(table_of(lambda run: measured(0.4, 0.1), "tanh", seeds=1), source)
    assert "Incomplete" not in whole
    assert "A standard error takes two seeds at least" in whole
    base_only_twice = table_of(lambda run: None if run.seed and run.variation != "base" else four_ends(run), *ENDS)
    assert "nan" not in page(base_only_twice, source), "one-view has two pairs then, and the variations one each"


def test_an_empty_table_can_be_written_and_drawn() -> None:
    """As before the first run, and of a base alone."""
    source = Provenance(command="c", base="b", data="d", seeds="0", machine="m")
    for names in (("base",), ()):
        table = table_of(lambda run: None, *names)
        assert "0 of" in page(table, source)
        rendered(draw_ablation(table), ".svg")
    assert cells(table.rows[0])[:4] == ("base: the configuration as given", "0 of 2", "-", "-")


def test_the_figure_shows_every_row() -> None:
    table = table_of(four_ends, *ENDS)
    figure = draw_ablation(table, "a note")
    top1, _ = figure.axes
    places = {label.get_text(): y for label, y in zip(top1.get_yticklabels(), top1.get_yticks(), strict=True)}
    assert list(places) == [*ENDS, "one-view"]
    points = [point for line in top1.lines for point in np.asarray(line.get_xydata()).tolist()]
    assert any(np.allclose(point, (5, places["tanh"])) for point in points)
    assert [1.4, places["no-lrn"]] in points, "what is reported"
    text = rendered(figure, ".svg").decode()
    for part in ("incomplete: 8 of 10 runs", "not measured yet", "a note"):
        assert part in text, part
    assert asdict(table)["rows"][0]["name"] == "base"
