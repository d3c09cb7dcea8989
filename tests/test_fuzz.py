"""Some rounds of `fuzz.py`, in processes that may die: damaged images crash nothing, hang nothing, disturb no other."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nvidia.dali")
import fuzz

ROUNDS = 12  # with 21 mutants each; more with `python tests/fuzz.py`


def test_mutants_are_images_or_bad_and_the_good_ones_unharmed() -> None:
    outcome = fuzz.in_a_child(0, ROUNDS)
    assert outcome.problem == ""
    assert outcome.last_round == ROUNDS - 1
    assert ROUNDS * fuzz.NUM_MUTANTS / 3 < outcome.bad < ROUNDS * fuzz.NUM_MUTANTS  # some are only a little damaged


def test_a_good_image_that_is_refused_would_be_noticed(tmp_path: Path) -> None:
    images, good = fuzz.images_of(0)
    fuzz.check(tmp_path, [images[good[0]], b"no image"], [0])
    with pytest.raises(AssertionError, match="not an image"):
        fuzz.check(tmp_path, [images[good[0]], b"no image"], [0, 1])


def test_rounds_are_the_same_every_time() -> None:
    assert fuzz.images_of(3) == fuzz.images_of(3)
    assert fuzz.images_of(3)[0] != fuzz.images_of(4)[0]
