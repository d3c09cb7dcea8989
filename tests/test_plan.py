"""The plan: fixed by (seed, epoch), a permutation, uniform, and the same however it is sliced."""

from __future__ import annotations

import threading
import time
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from alexnet.pipeline.geometry import num_offsets
from alexnet.pipeline.plan import Draws, Plan, draw_ahead, draw_epoch, share

ARRAYS = ("order", "crops", "flips", "lighting")
seeds = st.integers(0, 2**63)


def drawn(*arguments: Any, **switches: Any) -> Draws:
    """All of an epoch."""
    return draw_epoch(*arguments, **switches)[:]


def differing(a: Draws, b: Draws) -> set[str]:
    return {name for name in ARRAYS if not np.array_equal(getattr(a, name), getattr(b, name))}


@given(n=st.integers(1, 500), seed=seeds, epoch=st.integers(0, 1000), run=st.integers(1, 70))
def test_a_plan_is_fixed_by_its_arguments_and_well_formed(n: int, seed: int, epoch: int, run: int) -> None:
    plan = drawn(n, seed, epoch, images_per_crop=run)
    assert differing(plan, drawn(n, seed, epoch, images_per_crop=run)) == set()
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
    plans = [drawn(1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i, one in enumerate(plans):
        for other in plans[:i]:
            assert differing(one, other) == set(ARRAYS)


def by_hand(n: int, seed: int, epoch: int, run: int, places: int) -> Draws:
    """The same from one long run of the generators, position by position, in Python's own numbers."""
    shuffling, disturbing = np.random.SeedSequence([seed, epoch]).spawn(2)
    words = np.random.Philox(key=disturbing.generate_state(2, np.uint64)).random_raw(4 * n).tolist()
    halves = [half for word in words for half in (word % 2**32, word >> 32)]
    blocks = [halves[8 * i : 8 * i + 8] for i in range(n)]
    shared = [blocks[i - i % run] for i in range(n)]
    normal = NormalDist().inv_cdf
    return Draws(
        order=np.random.Generator(np.random.Philox(shuffling)).permutation(n),
        crops=np.array([[places * block[0] >> 32, places * block[1] >> 32] for block in shared]),
        flips=np.array([block[2] % 2 == 1 for block in shared]),
        lighting=np.array([[normal((word + 0.5) / 2**32) for word in block[3:6]] for block in blocks]),
    )


@given(
    data=st.data(),
    n=st.integers(1, 300),
    seed=seeds,
    epoch=st.integers(0, 1000),
    run=st.integers(1, 70),
    places=st.sampled_from([33, 30]),
)
def test_any_slice_is_what_the_generators_say(
    data: st.DataObject, n: int, seed: int, epoch: int, run: int, places: int
) -> None:
    start = data.draw(st.integers(0, n))
    part = slice(start, data.draw(st.integers(start, n)))
    plan = draw_epoch(n, seed, epoch, images_per_crop=run, num_offsets=places)[part]
    expected = by_hand(n, seed, epoch, run, places)
    for name in ("order", "crops", "flips"):
        assert getattr(plan, name).tolist() == getattr(expected, name)[part].tolist(), name
    np.testing.assert_allclose(plan.lighting, expected.lighting[part], rtol=1e-6, atol=1e-6)


def test_the_rarest_words_of_the_generator_give_finite_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw in four thousand million is of word 0, of which a normal quantile at 0 would make minus infinity."""
    extremes = [0, 2**32 - 1, 1]
    monkeypatch.setattr(Plan, "_words", lambda plan, start, stop: np.array([[0] * 3 + extremes + [0] * 2], np.uint64))
    lighting = drawn(1, 0, 0).lighting[0]
    np.testing.assert_allclose(lighting, [NormalDist().inv_cdf((w + 0.5) / 2**32) for w in extremes], rtol=1e-6)
    assert lighting[0] == -lighting[1]  # the grid is symmetrical, so the mean is 0


def test_the_plan_of_record() -> None:
    """A change of these numbers breaks every interrupted run: it must be deliberate."""
    plan = drawn(5, seed=2012, epoch=3)
    assert plan.order.tolist() == [1, 3, 2, 4, 0]
    assert plan.crops.tolist() == [[22, 17], [8, 32], [3, 15], [18, 13], [21, 22]]
    assert plan.flips.tolist() == [False, True, True, False, True]
    np.testing.assert_allclose(plan.lighting[0], [-0.9496088, -0.13809843, -2.2901485], rtol=1e-6)


def test_plans_drawn_ahead_are_the_same_in_order() -> None:
    def draw(epoch: int) -> Plan:
        drawn_by.append((epoch, threading.current_thread().name))
        return draw_epoch(50, 1, epoch)

    drawn_by: list[tuple[int, str]] = []
    before = threading.active_count()
    plans = draw_ahead(draw, [4, 5, 9])
    for count, epoch in enumerate((4, 5, 9), 2):
        assert differing(next(plans)[:], drawn(50, 1, epoch)) == set()
        deadline = time.monotonic() + 60
        while len(drawn_by) < min(count, 3) and time.monotonic() < deadline:  # the following one, unasked
            time.sleep(0.001)
        assert [epoch for epoch, _ in drawn_by] == [4, 5, 9][:count]
    assert list(plans) == []
    assert threading.current_thread().name not in {name for _, name in drawn_by}
    assert threading.active_count() == before
    assert list(draw_ahead(draw, [])) == []


def test_an_error_in_drawing_is_raised_and_abandoned_plans_end_their_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="at least 1"):
        list(draw_ahead(lambda epoch: draw_epoch(0, 0, epoch), [0, 1]))
    plans = draw_ahead(lambda epoch: draw_epoch(9, 0, epoch), range(10**9))
    next(plans)
    plans.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize(("crop", "places", "middle"), [(224, 33, 16), (227, 30, 14)])
def test_offsets_are_uniform_and_both_ends_inclusive(crop: int, places: int, middle: int) -> None:
    assert num_offsets(crop) == places
    assert (drawn(9, 1, 2, num_offsets=places, random_crop=False).crops == middle).all()
    plan = drawn(200_000, seed=1, epoch=2, num_offsets=places)
    for axis in (0, 1):
        counts = np.bincount(plan.crops[:, axis], minlength=places)
        assert len(counts) == places
        assert counts.min() > 0
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
    joint = np.histogram2d(plan.crops[:, 0], plan.crops[:, 1], bins=places)[0]
    assert joint.min() > 0
    assert scipy.stats.chi2_contingency(joint).pvalue > 1e-3


def test_flips_are_fair_and_lighting_is_standard_normal() -> None:
    plan = drawn(200_000, seed=1, epoch=2)
    assert scipy.stats.binomtest(int(plan.flips.sum()), 200_000).pvalue > 1e-3
    for axis in range(3):
        assert scipy.stats.kstest(plan.lighting[:, axis], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(plan.lighting.T) - np.eye(3)).max() < 0.01
    assert abs(np.corrcoef(plan.flips, plan.crops[:, 0])[0, 1]) < 0.01


def test_the_order_is_a_uniform_permutation() -> None:
    where = np.stack([drawn(20, seed=5, epoch=e).order for e in range(2000)])  # (epochs, positions)
    counts = np.stack([np.bincount(where[:, p], minlength=20) for p in range(20)])
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000])
def test_runs_share_one_crop_and_one_flip(n: int) -> None:
    plan = drawn(n, 7, 0, images_per_crop=32)
    starts = np.arange(n) // 32 * 32
    assert np.array_equal(plan.crops, plan.crops[starts])
    assert np.array_equal(plan.flips, plan.flips[starts])
    assert len(np.unique(plan.lighting[:, 0])) == n
    assert differing(plan, drawn(n, 7, 0)) <= {"crops", "flips"}
    if n == 1000:
        assert len(np.unique(plan.crops[::32], axis=0)) > 16


def test_a_switch_leaves_the_other_streams_alone() -> None:
    plan = drawn(500, 3, 4)
    centred, unflipped = drawn(500, 3, 4, random_crop=False), drawn(500, 3, 4, random_flip=False)
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
    plan, batch = drawn(100, 0, 0), 16
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
        drawn(n, 0, 0, images_per_crop=run)


# -- within a window ---------------------------------------------------------------------------------------

SHARDS = np.repeat(np.arange(12, dtype=np.int32), [5, 3, 8, 1, 5, 5, 9, 2, 5, 5, 7, 5])


@pytest.mark.parametrize("window", [1, 7, 20, 60])
def test_few_shards_are_in_use_at_a_time(window: int) -> None:
    shard = SHARDS[draw_epoch(len(SHARDS), 3, 1, shards=SHARDS, window=window).order]
    counts = np.bincount(SHARDS)
    assert (np.bincount(shard) == counts).all()
    first, last = ([place(np.flatnonzero(shard == s)) for s in range(12)] for place in (np.min, np.max))
    for position in range(len(SHARDS)):
        in_use = (np.array(first) <= position) & (position <= np.array(last))
        assert counts[in_use].sum() <= window + 2 * counts.max()


def test_an_order_within_a_window_follows_from_seed_and_epoch() -> None:
    orders = {
        (seed, epoch, window): tuple(draw_epoch(60, seed, epoch, shards=SHARDS, window=window)[:].order)
        for seed, epoch, window in [(0, 0, 9), (1, 0, 9), (0, 1, 9), (0, 0, 10)]
    }
    assert len(set(orders.values())) == 4
    assert orders[0, 0, 9] == tuple(draw_epoch(60, 0, 0, shards=SHARDS, window=9)[:].order)


def test_the_window_changes_nothing_but_the_order() -> None:
    whole, within = drawn(60, 4, 2), drawn(60, 4, 2, shards=SHARDS, window=9)
    assert (whole.crops == within.crops).all()
    assert (whole.lighting == within.lighting).all()
    assert (drawn(60, 4, 2, shards=SHARDS).order == whole.order).all()


def test_images_are_mixed_within_their_shard_and_window() -> None:
    """Over many epochs each image of a shard is as likely to come early as the others, and neighbours part."""
    shards = np.repeat(np.arange(10, dtype=np.int32), 10)
    orders = np.stack([draw_epoch(100, 0, epoch, shards=shards, window=30)[:].order for epoch in range(400)])
    places = np.argsort(orders, axis=1)
    assert np.abs(places.mean(axis=0) - 49.5).max() < 6  # standard error: 1.4
    assert np.abs(np.diff(places[:, :10], axis=1)).mean() > 7  # 10 for two places anywhere in a window of 30


def test_a_window_over_a_single_container_mixes_all() -> None:
    order = draw_epoch(200, 0, 0, shards=np.full(200, -1, np.int32), window=3)[:].order
    assert sorted(order) == [*range(200)]
    assert abs(np.corrcoef(order, np.arange(200))[0, 1]) < 0.25
