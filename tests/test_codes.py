"""Codes of features: bits, searches and recall against plain numpy, what is written, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.cli import main
from alexnet.pipeline.errors import UserError
from alexnet.train import row_blocks
from alexnet.train.codes import load_encoder, make_codes
from alexnet.train.feature_folder import Description, open_features
from alexnet.train.hamming import CodeSearch, Encoder, random_hyperplanes

pytestmark = pytest.mark.usefixtures("quiet_machine")
WIDTH, BITS = 60, 16


def write_features(folder: Path, num: int, seed: int, **changes: Any) -> Path:
    """Rows whose variance lies in a few directions, rectified, like those of a trained network."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] * 8 / np.arange(1, WIDTH + 1)
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.standard_normal((num, WIDTH)) @ directions.T, 0).astype(np.float16)
    about: dict[str, Any] = {
        "checkpoint": "net.npz",
        "network": "12" * 16,
        "layer": "fc7",
        "pool": "none",
        "views": 1,
        "dtype": "float16",
        "images": "images",
        "split": "train",
        "dataset": "34" * 16,
        "decode": "exact, cpu",
        "max_pixels": 1,
        "shape": rows.shape,
        "classes": ("a",),
        "versions": {},
    }
    folder.mkdir(parents=True)
    np.save(folder / "features.npy", rows)
    (folder / "index.jsonl").write_text("".join(json.dumps({"name": str(i), "label": 0}) + "\n" for i in range(num)))
    Description(**(about | changes)).save(folder)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("features") / "train", 1200, seed=1)


# -- bits and their search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_bit_is_the_side_of_a_hyperplane(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 7 * 4 * 9)  # 7 rows
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((30, 9)).astype(dtype)
    encoder = Encoder(*(rng.standard_normal(shape).astype(np.float32) for shape in (9, (9, 16), 16)))
    sides = (rows.astype(np.float64) - encoder.mean) @ encoder.weight + encoder.bias
    assert np.abs(sides).min() > 1e-5
    np.testing.assert_array_equal(encoder.encode(rows), np.packbits(sides > 0, axis=1))


@settings(max_examples=60)
@given(st.integers(1, 90), st.sampled_from([8, 16, 24, 32, 64, 72, 128, 256]), st.data())
def test_it_finds_what_counting_bits_finds(num: int, bits: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ones = rng.random((num + 1, bits)) < data.draw(st.sampled_from([0.02, 0.5]))  # many ties, or few
    codes, k = np.packbits(ones, axis=1), data.draw(st.integers(1, num))
    expected = np.argsort((ones[1:] != ones[0]).sum(1), kind="stable")[:k]
    np.testing.assert_array_equal(CodeSearch(codes[1:]).nearest(codes[0], k), expected)


# -- training and measuring ---------------------------------------------------------------------------------


def recall_of(bits: np.ndarray, rows: np.ndarray, queries: np.ndarray, held_out: np.ndarray, among: int) -> float:
    """From its definition; `bits` are those of the queries, then of the rows."""
    found = []
    own, others = bits[: len(queries)], bits[len(queries) :]
    for query, code in zip(queries.astype(np.float64), own, strict=True):
        distances, differing = ((rows - query) ** 2).sum(1), (others != code).sum(1).astype(float)
        distances[held_out] = differing[held_out] = np.inf
        exact = np.argsort(distances, kind="stable")[:10]
        found.append(np.isin(exact, np.argsort(differing, kind="stable")[:among]).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_codes_beat_random_hyperplanes_by_what_is_reported(features: Path, tmp_path: Path, elsewhere: bool) -> None:
    queries = write_features(tmp_path / "val", 150, seed=2, split="val", dataset="56" * 16) if elsewhere else None
    report = make_codes(features, tmp_path / "codes", bits=BITS, queries=queries)
    rows, encoder = np.asarray(open_features(features).array), load_encoder(tmp_path / "codes")
    held_out = np.empty(0, int) if elsewhere else np.sort(np.random.default_rng(0).permutation(1200)[:120])
    asked = np.asarray(open_features(queries).array) if queries else rows[held_out]
    assert report.num_queries == len(asked) == (150 if elsewhere else 120)
    assert report.num_trained_on == 1200 - len(held_out)

    def recall(of: Encoder, among: int) -> float:
        bits = ((np.concatenate([asked, rows]) - of.mean) @ of.weight + of.bias) > 0
        return recall_of(bits, rows.astype(np.float64), asked, held_out, among)

    assert report.recall.among_10 == pytest.approx(recall(encoder, 10), abs=0.005)  # a bit may round otherwise
    assert report.recall.among_100 == pytest.approx(recall(encoder, 100), abs=0.005)
    random = [recall(random_hyperplanes(encoder.mean, BITS, seed), 10) for seed in range(5)]
    found = report.random_hyperplanes
    assert (found.mean.among_10, found.lowest.among_10, found.highest.among_10) == pytest.approx(
        (np.mean(random), min(random), max(random)), abs=0.005
    )
    assert report.recall.among_10 > found.highest.among_10 + 0.04
    assert (report.feature_bytes, report.code_bytes) == (1200 * WIDTH * 2, 1200 * BITS // 8)
    assert min(report.search.exact_ms, report.search.hamming_ms) > 0


def test_what_is_written_follows_from_the_seed(features: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_codes(features, tmp_path / name, bits=16, seed=seed)
        torch.rand(1)  # no generator of torch's own is used
    codes = {name: (tmp_path / name / "codes.npy").read_bytes() for name in "abc"}
    assert codes["a"] == codes["b"] != codes["c"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["codes.json", "codes.npy", "encoder.npz"]
    stored, encoder = np.load(tmp_path / "a/codes.npy"), load_encoder(tmp_path / "a")
    assert (stored.dtype, stored.shape) == (np.uint8, (1200, 2))
    np.testing.assert_array_equal(stored, encoder.encode(open_features(features).array))
    record = json.loads((tmp_path / "a/codes.json").read_text())
    assert (record["format"], record["features"], record["network"]) == ("alexnet-codes", str(features), "12" * 16)


def test_more_bits_than_numbers_are_possible(features: Path, tmp_path: Path) -> None:
    few, many = (make_codes(features, tmp_path / str(bits), bits=bits).recall.among_10 for bits in (16, 128))
    assert many > few + 0.1


# -- what is refused ----------------------------------------------------------------------------------------


def test_features_that_do_not_serve_are_refused(features: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "out"
    for folder, how, message in [
        (features, {"out": tmp_path / "file/out"}, "file/out cannot be written"),
        (write_features(tmp_path / "few", 199, 1), {}, "at least 200 rows of features; .*few has 199"),
        (features, {"queries": write_features(tmp_path / "net", 50, 1, network="0")}, "net and .* another network"),
        (features, {"queries": write_features(tmp_path / "fc6", 50, 1, layer="fc6")}, "fc6 and .* another layer"),
        (features, {"queries": features}, "holds the features themselves. Without it, some are held out"),
        (tmp_path / "none", {}, "There are no features in .*none"),
    ]:
        with pytest.raises(UserError, match=message):
            make_codes(folder, **({"out": out} | how))  # type: ignore[arg-type]
    constant = write_features(tmp_path / "constant", 300, 1)
    np.save(constant / "features.npy", np.ones((300, WIDTH), np.float16))
    with pytest.raises(UserError, match="rows that differ"):
        make_codes(constant, out)
    assert not out.exists()
    with pytest.raises(UserError, match=r"There are no codes in .*: it has no encoder.npz"):
        load_encoder(tmp_path)
    for damaged in (b"PK", b"PK\3\4 cut short", b""):
        (tmp_path / "encoder.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"encoder.npz is damaged"):
            load_encoder(tmp_path)


def invoke(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["codes", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_the_command_reports_recall_speed_and_bytes(features: Path, tmp_path: Path) -> None:
    found = json.loads(invoke(features, "--bits", "16", "--out", tmp_path / "a", "--json").stdout)
    assert found["bits"] == 16
    assert 0 < found["recall"]["among_10"] < found["recall"]["among_100"] < 1
    text = invoke(features, "--bits", "64", "--out", tmp_path / "b").output
    for words in ("auto-encoder", "random hyperplanes", "Hamming", "exact", "bytes"):
        assert words in text
    assert "multiple of 8" in invoke(features, "--bits", "12", "--out", tmp_path / "c", code=2).stderr
