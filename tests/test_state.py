"""The state of a pass: what was saved is loaded, what was damaged is not."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest

from alexnet.pca.moments import RgbMoments
from alexnet.pca.state import PassState, saved_position


def some_state(size: int | None) -> PassState:
    """Three of four images added up, one bad."""
    state = PassState.fresh(0, size)
    images = np.arange(144, dtype=np.uint8).reshape(3, 4, 4, 3)
    if size is None:
        for image in images:
            state.moments.update_image(image)
    else:
        state.moments.update(images)
    state.position, state.bad[1] = 4, "empty"
    state.sample[0] = np.full((32, 3), 7, np.uint8)
    return state


@pytest.mark.parametrize("size", [4, None])
def test_saved_and_loaded_is_the_same(tmp_path: Path, size: int | None) -> None:
    path, state = tmp_path / "state.npz", some_state(size)
    assert PassState.load(path, "key", 0, 10, size) is None
    assert saved_position(path, "key", 0) == 0
    state.save(path, "key")
    loaded = PassState.load(path, "key", 0, 10, size)
    assert loaded is not None
    assert (loaded.position, loaded.moments, loaded.bad) == (4, state.moments, state.bad)
    np.testing.assert_array_equal(loaded.sample[0], state.sample[0])
    assert saved_position(path, "key", 0) == 4
    assert saved_position(path, "other", 0) == 0


def test_loaded_state_can_be_added_to(tmp_path: Path) -> None:
    some_state(4).save(tmp_path / "state.npz", "key")
    loaded = PassState.load(tmp_path / "state.npz", "key", 0, 10, 4)
    assert loaded is not None
    loaded.moments.update(np.full((1, 4, 4, 3), 255, np.uint8))
    expected: RgbMoments = some_state(4).moments
    expected.update(np.full((1, 4, 4, 3), 255, np.uint8))
    assert loaded.moments == expected


def test_any_damaged_byte_is_noticed_or_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    path, state = tmp_path / "state.npz", some_state(4)
    state.save(path, "key")
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(400):
        where = rng.randrange(len(whole))
        path.write_bytes(whole[:where] + bytes([whole[where] ^ (1 << rng.randrange(8))]) + whole[where + 1 :])
        loaded = PassState.load(path, "key", 0, 10, 4)
        assert loaded is None or (loaded.moments == state.moments and loaded.bad == state.bad)
    for length in range(0, len(whole), 197):
        path.write_bytes(whole[:length])
        assert PassState.load(path, "key", 0, 10, 4) is None
    path.write_bytes(whole)
    assert PassState.load(path, "other", 0, 10, 4) is None
    assert PassState.load(path, "key", 0, 3, 4) is None
