"""The plan: fixed by (seed, epoch), a permutation, uniform, and sliced alike by any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from alexnet.pipeline.plan import NUM_OFFSETS, Plan, draw_epoch, share

ARRAYS = ("order", "crops", "flips", "lighting")
seeds = st.integers(0, 2**63)


def differing(a: Plan, b: Plan) -> set[str]:
    return {name for name in ARRAYS if not np.array_equal(getattr(a, name), getattr(b, name))}


@given(n=st.integers(1, 500), seed=seeds, epoch=st.integers(0, 1000), run=st.integers(1, 70))
def test_a_plan_is_fixed_by_its_arguments_and_well_formed(n: int, seed: int, epoch: int, run: int) -> None:
    plan = draw_epoch(n, seed, epoch, run=run)
    assert differing(plan, draw_epoch(n, seed, epoch, run=run)) == set()
    assert np.array_equal(np.sort(plan.order), np.arange(n))
    assert (plan.crops.shape, plan.flips.shape, plan.lighting.shape) == ((n, 2), (n,), (n, 3))
    assert (plan.order.dtype, plan.crops.dtype, plan.flips.dtype, plan.lighting.dtype) == (
        np.int64,
        np.uint8,
        np.bool_,
        np.float32,
    )
    assert plan.crops.max() <= 32
    assert np.isfinite(plan.lighting).all()


def test_every_epoch_and_seed_differ_in_everything() -> None:
    plans = [draw_epoch(1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i, one in enumerate(plans):
        for other in plans[:i]:
            assert differing(one, other) == set(ARRAYS)


def test_the_plan_of_record() -> None:
    """A change of these numbers breaks every interrupted run: it must be deliberate."""
    plan = draw_epoch(5, seed=2012, epoch=3)
    again = np.random.SeedSequence([2012, 3]).spawn(4)
    assert plan.order.tolist() == np.random.Generator(np.random.Philox(again[0])).permutation(5).tolist()
    assert plan.order.tolist() == [1, 3, 2, 4, 0]
    assert plan.crops.tolist() == [[9, 20], [21, 6], [0, 21], [17, 22], [15, 1]]
    assert plan.flips.tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(plan.lighting[0], np.array([0.5512116, 2.0176988, -0.7086834], np.float32))


def test_offsets_are_uniform_over_0_to_32_inclusive() -> None:
    plan = draw_epoch(200_000, seed=1, epoch=2)
    for axis in (0, 1):
        counts = np.bincount(plan.crops[:, axis], minlength=33)
        assert len(counts) == NUM_OFFSETS == 33
        assert counts.min() > 0
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
    joint = np.histogram2d(plan.crops[:, 0], plan.crops[:, 1], bins=33)[0]
    assert joint.min() > 0
    assert scipy.stats.chi2_contingency(joint).pvalue > 1e-3


def test_flips_are_fair_and_lighting_is_standard_normal() -> None:
    plan = draw_epoch(200_000, seed=1, epoch=2)
    assert scipy.stats.binomtest(int(plan.flips.sum()), 200_000).pvalue > 1e-3
    for axis in range(3):
        assert scipy.stats.kstest(plan.lighting[:, axis], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(plan.lighting.T) - np.eye(3)).max() < 0.01
    assert abs(np.corrcoef(plan.flips, plan.crops[:, 0])[0, 1]) < 0.01


def test_the_order_is_a_uniform_permutation() -> None:
    where = np.stack([draw_epoch(20, seed=5, epoch=e).order for e in range(2000)])  # (epochs, positions)
    counts = np.stack([np.bincount(where[:, p], minlength=20) for p in range(20)])
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000])
def test_runs_share_one_crop_and_one_flip(n: int) -> None:
    plan = draw_epoch(n, 7, 0, run=32)
    starts = np.arange(n) // 32 * 32
    assert np.array_equal(plan.crops, plan.crops[starts])
    assert np.array_equal(plan.flips, plan.flips[starts])
    assert len(np.unique(plan.lighting[:, 0])) == n
    assert differing(plan, draw_epoch(n, 7, 0)) <= {"crops", "flips"}
    if n == 1000:
        assert len(np.unique(plan.crops[::32], axis=0)) > 16


def test_a_switch_leaves_the_other_streams_alone() -> None:
    plan = draw_epoch(500, 3, 4)
    centred, unflipped = draw_epoch(500, 3, 4, random_crop=False), draw_epoch(500, 3, 4, random_flip=False)
    assert differing(plan, centred) == {"crops"}
    assert differing(plan, unflipped) == {"flips"}
    assert (centred.crops == 16).all()
    assert not unflipped.flips.any()


@given(batch=st.integers(1, 300), num_ranks=st.integers(1, 40))
def test_shares_tile_the_batch(batch: int, num_ranks: int) -> None:
    shares = [share(batch, r, num_ranks) for r in range(num_ranks)]
    rows = np.arange(batch)
    assert np.array_equal(np.concatenate([rows[s] for s in shares]), rows)
    sizes = [s.stop - s.start for s in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_together_see_the_global_batch(num_ranks: int) -> None:
    plan, batch = draw_epoch(100, 0, 0), 16
    for step in range(100 // batch):
        rows = slice(step * batch, (step + 1) * batch)
        parts = [share(batch, r, num_ranks) for r in range(num_ranks)]
        for name in ARRAYS:
            whole = getattr(plan, name)[rows]
            pieces = [getattr(plan, name)[step * batch + p.start : step * batch + p.stop] for p in parts]
            assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize(("n", "run"), [(0, 1), (-1, 1), (5, 0)])
def test_nothing_to_plan(n: int, run: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        draw_epoch(n, 0, 0, run=run)
