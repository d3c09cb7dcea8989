"""Compact codes of features: trained, written, and measured against what they stand for.

    codes.npy      uint8 (n, bits / 8): row i is the code of row i of the features
    encoder.npz    mean, weight, bias: an `Encoder`
    codes.json     of which features, and how good the codes are: a `CodesReport`

`feature_folder.py` opens the features, `autoencoder.py` trains, `hamming.py` encodes and searches. The measure is
recall@10: the share of the 10 nearest rows by Euclidean distance, found exactly (`nearest.py`), that are among the 10,
or the 100, nearest by Hamming distance.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..pipeline.errors import FeaturesError
from ..pipeline.files import can_write_into, naming, whole_file, write_atomically
from .autoencoder import train_encoder
from .feature_folder import Features, open_features
from .hamming import CodeSearch, Encoder, random_hyperplanes
from .nearest import nearest
from .row_blocks import drop_pages

FORMAT, VERSION = "alexnet-codes", 1
CODES, ENCODER, RECORD = "codes.npy", "encoder.npz", "codes.json"
NEAREST, AMONG = 10, (10, 100)
FEWEST = 200  # rows
TRAINED_ON, NUM_QUERIES = 20_000, 1000  # rows, at most
TIMED_QUERIES, ROUNDS = 5, 5
RANDOM_SEEDS = 5


@dataclass(frozen=True)
class Recall:
    """The share of the 10 nearest that are among the 10 and the 100 nearest by code."""

    among_10: float
    among_100: float


@dataclass(frozen=True)
class RandomRecall:
    """Recall of random hyperplanes over several seeds."""

    seeds: int
    mean: Recall
    lowest: Recall
    highest: Recall


@dataclass(frozen=True)
class Speed:
    """Milliseconds to search all rows for one query, medians over rounds in which the two took turns."""

    exact_ms: float
    hamming_ms: float


@dataclass(frozen=True, kw_only=True)
class CodesReport:
    """What was made of which features, and how good it is."""

    bits: int
    seed: int
    features: str  # their folder, whose index names the rows
    network: str  # fingerprint
    dataset: str  # fingerprint
    layer: str
    num_codes: int
    num_trained_on: int
    queries: str  # a folder, or "held out"
    num_queries: int
    recall: Recall
    random_hyperplanes: RandomRecall
    search: Speed
    feature_bytes: int  # of all rows
    code_bytes: int


@dataclass(frozen=True, eq=False)
class _Task:
    """Queries, the rows that they are searched among, and the answers."""

    queries: NDArray[Any]  # (q, d)
    rows: NDArray[Any]  # (n, d), mapped
    held_out: NDArray[np.int64]  # rows that are not searched: the queries, unless they come from elsewhere
    exact: NDArray[np.int64]  # (q, 10)


def make_codes(
    folder: Path,
    out: Path,
    *,
    bits: int = 128,
    seed: int = 0,
    queries: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda part, done, total: None,
) -> CodesReport:
    """Train codes of `bits` bits on the features in `folder`, and write them into `out`.

    Recall is measured with rows that are held out of training and search, or with those of `queries`, features of
    other images by the same network. `progress` gets (part, done, total). FeaturesError where a folder is not as it
    should be, or `out` cannot be written.
    """
    if not can_write_into(out):
        raise FeaturesError(f"{out} cannot be written. Use another folder.")
    features = open_features(folder)
    rows = _flat(features)
    if len(rows) < FEWEST:
        raise FeaturesError(f"Codes need at least {FEWEST} rows of features; {folder} has {len(rows)}.")
    rng = np.random.default_rng(seed)
    task = _prepare(features, rows, folder, queries, rng, progress)
    chosen = np.setdiff1d(np.arange(len(rows)), task.held_out)
    chosen = np.sort(rng.permutation(chosen)[:TRAINED_ON])
    sample = rows[chosen].astype(np.float32)
    drop_pages(rows)
    if not np.isfinite(sample).all() or not np.ptp(sample, axis=0).any():
        raise FeaturesError(f"Codes need rows that differ and are finite: those of {folder} are not.")
    encoder = train_encoder(sample, bits, seed, lambda epoch: progress("training", epoch, 10))
    codes = encoder.encode(rows, lambda done: progress("codes", done, len(rows)))
    random = []
    for other in range(RANDOM_SEEDS):
        planes = random_hyperplanes(encoder.mean, bits, other)
        random.append(_recall(task, planes, planes.encode(rows)))
        progress("random hyperplanes", other + 1, RANDOM_SEEDS)
    report = CodesReport(
        bits=bits,
        seed=seed,
        features=str(folder),
        network=features.about.network,
        dataset=features.about.dataset,
        layer=features.about.layer,
        num_codes=len(codes),
        num_trained_on=len(sample),
        queries=str(queries) if queries else "held out",
        num_queries=len(task.queries),
        recall=_recall(task, encoder, codes),
        random_hyperplanes=RandomRecall(RANDOM_SEEDS, *(_over(random, of) for of in (mean, min, max))),
        search=_time(task, encoder, codes),
        feature_bytes=rows.nbytes,
        code_bytes=codes.nbytes,
    )
    _write(out, codes, encoder, report)
    return report


def _flat(features: Features) -> NDArray[Any]:
    return features.array.reshape(len(features.array), -1)


def _prepare(
    features: Features,
    rows: NDArray[Any],
    folder: Path,
    queries: Path | None,
    rng: np.random.Generator,
    progress: Callable[[str, int, int], None],
) -> _Task:
    if queries is None:
        source, held_out = rows, np.sort(rng.permutation(len(rows))[: min(NUM_QUERIES, len(rows) // 10)])
        chosen = held_out
    else:
        if queries.resolve() == folder.resolve():
            raise FeaturesError(f"--queries: {queries} holds the features themselves. Without it, some are held out.")
        other = open_features(queries)
        for name in ("network", "layer", "pool", "views"):
            if getattr(other.about, name) != getattr(features.about, name):
                raise FeaturesError(f"{queries} and {folder} hold features with another {name}: they do not compare.")
        source, held_out = _flat(other), np.empty(0, np.int64)
        chosen = np.sort(rng.permutation(len(source))[:NUM_QUERIES])
    asked = np.asarray(source[chosen])
    found = nearest(
        asked, rows, NEAREST, without=held_out, progress=lambda done: progress("exact search", done, len(rows))
    )
    return _Task(asked, rows, held_out, found.indices)


def _recall(task: _Task, encoder: Encoder, codes: NDArray[np.uint8]) -> Recall:
    searched = np.delete(np.arange(len(codes)), task.held_out)
    search, asked = CodeSearch(codes[searched]), encoder.encode(task.queries)
    found = np.stack([searched[search.nearest(code, max(AMONG))] for code in asked])  # (q, 100)
    hits = [[np.isin(exact, near[:k]).sum() for exact, near in zip(task.exact, found, strict=True)] for k in AMONG]
    return Recall(*(np.mean(hits, axis=1) / NEAREST).tolist())


def _over(recalls: Sequence[Recall], of: Callable[[Sequence[float]], float]) -> Recall:
    return Recall(of([r.among_10 for r in recalls]), of([r.among_100 for r in recalls]))


def _time(task: _Task, encoder: Encoder, codes: NDArray[np.uint8]) -> Speed:
    """Let both search all rows for the same queries, in turns. The Hamming search includes encoding the queries."""
    queries, search = task.queries[:TIMED_QUERIES], CodeSearch(codes)
    spent: list[list[float]] = [[], []]

    def exact() -> None:
        nearest(queries, task.rows, NEAREST)

    def hamming() -> None:
        for code in encoder.encode(queries):
            search.nearest(code, NEAREST)

    for _ in range(ROUNDS):
        for times, run in zip(spent, (exact, hamming), strict=True):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start) / len(queries))
    return Speed(*map(median, spent))


def _write(out: Path, codes: NDArray[np.uint8], encoder: Encoder, report: CodesReport) -> None:
    with naming(out / CODES), whole_file(out / CODES, codes.nbytes) as file:
        np.save(file, codes)
    with naming(out / ENCODER), whole_file(out / ENCODER) as file:
        np.savez(file, **vars(encoder))
    content = {"format": FORMAT, "version": VERSION, **asdict(report)}
    write_atomically(out / RECORD, json.dumps(content, indent=1).encode())


def load_encoder(out: Path) -> Encoder:
    """The encoder in a folder of codes; FeaturesError where there is none."""
    path = out / ENCODER
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # without pickle
            return Encoder(**{name: arrays[name] for name in ("mean", "weight", "bias")})
    except FileNotFoundError:
        raise FeaturesError(f"There are no codes in {out}: it has no {ENCODER}.") from None
    except (ValueError, KeyError, EOFError, OSError, BadZipFile) as error:
        raise FeaturesError(f"{path} is damaged: {error}") from error
