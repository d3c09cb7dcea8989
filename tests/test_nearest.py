"""The search for neighbours against sorting all distances in float64."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.pipeline.errors import UserError
from alexnet.train import nearest as module
from alexnet.train import row_blocks
from alexnet.train.nearest import Neighbours, Search, nearest

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = (np.float16, np.float32)


def sorted_by_distance(queries: np.ndarray, rows: np.ndarray, k: int, without: Any = ()) -> Neighbours:
    squares = np.square(queries.astype(np.float64)[:, None] - rows.astype(np.float64)[None]).sum(axis=2)
    squares[:, without] = np.inf
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return Neighbours(order, np.sqrt(np.take_along_axis(squares, order, axis=1)))


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-12)


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_BYTES", 7 * 4 * 4)  # 7 rows of 4 numbers
        patch.setattr(module, "EXACT_BYTES", 3 * 8 * 4)
        yield


@settings(max_examples=80)
@given(st.data())
def test_it_finds_what_sorting_finds(data: st.DataObject) -> None:
    """Small whole numbers: their distances are exact, so many are equal, also across blocks."""
    num_rows, width, num_queries = (data.draw(st.integers(1, most)) for most in (40, 6, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    reach, offset = data.draw(st.sampled_from([(2, 0), (3, 1000), (50, 0)]))
    rows, queries = (
        (offset + rng.integers(-reach, reach + 1, (num, width))).astype(data.draw(st.sampled_from(DTYPES)))
        for num in (num_rows, num_queries)
    )
    without = np.flatnonzero(rng.random(num_rows) < data.draw(st.sampled_from([0, 0.3])))
    without = without[: num_rows - 1]
    k = data.draw(st.integers(1, num_rows - len(without)))
    assert_same(nearest(queries, rows, k, without=without), sorted_by_distance(queries, rows, k, without))


@pytest.mark.parametrize("offset", [1e2, 1e4, 3e6])
def test_cancellation_changes_nothing(offset: float) -> None:
    """Far from the origin, float32 loses what tells distances apart: the estimate alone would rank wrongly."""
    rng = np.random.default_rng(1)
    rows, queries = ((offset + rng.standard_normal((n, 40))).astype(np.float32) for n in (300, 5))
    norms, products = np.square(rows).sum(1), queries @ rows.T
    estimated = np.argsort(norms - 2 * products, axis=1)[:, :10]
    expected = sorted_by_distance(queries, rows, 10)
    assert (estimated != expected.indices).any()
    assert_same(nearest(queries, rows, 10), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_mapped_files_are_searched_in_place(tmp_path: Path, dtype: Any, scale: float) -> None:
    rng = np.random.default_rng(2)
    rows, queries = (np.maximum(rng.standard_normal((n, 30)) * scale, 0).astype(dtype) for n in (200, 3))
    np.save(tmp_path / "rows.npy", rows)
    mapped, done = np.load(tmp_path / "rows.npy", mmap_mode="r"), list[int]()
    expected = sorted_by_distance(queries, rows, 6)
    assert_same(nearest(queries, mapped, 6, progress=done.append), expected)
    assert done == sorted(done)
    assert done[-1] == 200
    assert_same(nearest(queries, mapped[50:], 6), sorted_by_distance(queries, rows[50:], 6))
    np.testing.assert_array_equal(mapped, rows, "pages that were dropped are read again")


def test_rows_come_in_any_order() -> None:
    rng = np.random.default_rng(3)
    rows, queries = (rng.integers(0, 3, (n, 5)).astype(np.float32) for n in (60, 4))
    search = Search(queries, 8)
    for some in np.array_split(rng.permutation(60), 9):
        search.add(some, torch.from_numpy(rows[some]))
    assert_same(search.found(), sorted_by_distance(queries, rows, 8))


def test_what_cannot_be_searched_is_refused() -> None:
    rows, queries = np.zeros((5, 4), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(UserError, match="There are no 6 nearest of 5 rows"):
        nearest(queries, rows, 6)
    with pytest.raises(UserError, match="There are no 4 nearest of 3 rows"):
        nearest(queries, rows, 4, without=np.array([0, 4]))
    with pytest.raises(UserError, match="Rows of 4 numbers cannot be compared with queries of 3"):
        nearest(queries[:, :3], rows, 2)
    for value, place in itertools.product([np.nan, np.inf, 3e38], [(3, 1)]):
        bad = rows.copy()
        bad[place] = value
        with pytest.raises(UserError, match="Row 3 cannot be compared"):
            nearest(queries, bad, 2)
    with pytest.raises(UserError, match="Some numbers of the queries are not finite"):
        nearest(queries + np.float32(np.nan), rows, 2)
    search = Search(queries, 3)
    search.add(np.arange(2), torch.zeros(2, 4))
    with pytest.raises(UserError, match="fewer than 3 rows"):
        search.found()
