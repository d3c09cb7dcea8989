"""The nearest rows of a large array to a few queries, exactly, in bounded memory.

Rows come from mapped features (`row_blocks.py`) or from a loader, block by block. What is found goes into figures of
neighbours (`figures/`), and into the recall of codes (`codes.py`).

A block's distances are first estimated in float32 by a matrix product, |x|^2 - 2 x.q + |q|^2, which is fast but loses
the digits in which neighbours differ. In any order of summation, the estimate is off by at most

    gamma (|x| + |q|)^2,  gamma = d u / (1 - d u),  u = 2^-24

(Higham, Accuracy and Stability of Numerical Algorithms, s3.1). Only a row whose estimate exceeds the k-th best distance
so far by more than this is passed over, so no row of the answer is. The distances of all others are computed in float64
as the sum of (x - q)^2, and these alone are ranked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..pipeline.errors import UserError
from .row_blocks import row_blocks

EXACT_BYTES = 2**25  # of float64 rows
UNIT = 2.0**-24  # float32 rounds by at most this share
SMALLEST = 2.0**-126  # products below it may be flushed to zero


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows to each of q queries, nearest first; of equally near ones the first."""

    indices: NDArray[np.int64]  # (q, k)
    distances: NDArray[np.float64]  # (q, k), Euclidean


def nearest(
    queries: NDArray[Any],
    rows: NDArray[Any],
    k: int,
    *,
    without: NDArray[np.int64] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Neighbours:
    """Search `rows` (n, d) for the `k` nearest to each of `queries` (q, d), both float32 or float16.

    `rows` may be mapped and larger than memory: its pages are dropped once read. Rows `without` (ascending) are passed
    over. `progress` is called with the number of rows done. UserError where there are fewer than `k` rows, where the
    widths differ, or where a number is not finite.
    """
    left_out = np.empty(0, np.int64) if without is None else without
    if k > len(rows) - len(left_out):
        raise UserError(f"There are no {k} nearest of {len(rows) - len(left_out)} rows.")
    search = Search(queries, k)
    if rows.shape[1:] != queries.shape[1:]:
        raise UserError(f"Rows of {rows.shape[1]} numbers cannot be compared with queries of {queries.shape[1]}.")
    for start, block in row_blocks(rows):
        end = start + len(block)
        indices = np.arange(start, end)
        first, last = np.searchsorted(left_out, (start, end))
        if first < last:
            indices = np.delete(indices, left_out[first:last] - start)
            block = block[torch.from_numpy(indices - start)]
        search.add(indices, block)
        progress(end)
    return search.found()


class Search:
    """The `k` nearest to each of `queries` (q, d) among the rows that it is shown, in any order."""

    def __init__(self, queries: NDArray[Any], k: int) -> None:
        if not np.isfinite(queries).all():
            raise UserError("Some numbers of the queries are not finite.")
        num_queries, width = queries.shape
        self._k, self._queries = k, queries.astype(np.float64)
        self._product = torch.from_numpy(queries.astype(np.float32))
        self._norms = np.linalg.norm(self._queries, axis=1)
        steps = (width + 4) * UNIT  # a few more than d, for the roundings after the sums
        assert steps < 0.1, "rows are too long for float32"
        self._gamma, self._underflow = steps / (1 - steps) ** 2, 4 * width * SMALLEST
        self._indices = np.full((num_queries, k), np.iinfo(np.int64).max)
        self._squares = np.full((num_queries, k), np.inf)

    def add(self, indices: NDArray[np.int64], rows: Tensor) -> None:
        """Rank rows, float32 (b, d), whose numbers are `indices` (b,), among those shown before."""
        if not len(indices):
            return
        norms = torch.linalg.vector_norm(rows, dim=1).double().numpy()
        if not np.isfinite(norms).all():
            row = int(indices[np.argmin(np.isfinite(norms))])
            raise UserError(f"Row {row} cannot be compared: a number is not finite, or too large to be squared.")
        products = F.linear(rows, self._product).numpy()
        for query, own in enumerate(self._norms.tolist()):
            estimate = norms**2 - 2.0 * products[:, query] + own**2
            error = self._gamma * (norms + own) ** 2 + self._underflow
            bound = self._squares[query, -1]
            if len(rows) > self._k:  # k rows are certainly as near as this
                bound = min(bound, np.partition(estimate + error, self._k - 1)[self._k - 1])
            self._rank(query, indices, rows, np.flatnonzero(estimate - error <= bound))

    def _rank(self, query: int, indices: NDArray[np.int64], rows: Tensor, candidates: NDArray[np.int64]) -> None:
        """Compute the distances of some rows in float64, and keep the best."""
        size = max(1, EXACT_BYTES // (8 * rows.shape[1]))
        for start in range(0, len(candidates), size):
            some = candidates[start : start + size]
            exact = rows[torch.from_numpy(some)].double().numpy()
            exact -= self._queries[query]
            squares = np.concatenate([self._squares[query], np.square(exact, out=exact).sum(axis=1)])
            numbers = np.concatenate([self._indices[query], indices[some]])
            best = np.lexsort((numbers, squares))[: self._k]
            self._squares[query], self._indices[query] = squares[best], numbers[best]

    def found(self) -> Neighbours:
        """UserError where fewer than k rows were shown."""
        if not np.isfinite(self._squares).all():
            raise UserError(f"There are fewer than {self._k} rows to search.")
        return Neighbours(self._indices, np.sqrt(self._squares))
