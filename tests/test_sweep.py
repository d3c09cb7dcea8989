"""The sweep finds a setting that is faster, and recommends none that only seemed to be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.pipeline.bench.conditions import Bench
from alexnet.pipeline.bench.sweep import WORTH_IT, candidates, is_clear, sweep, winner
from alexnet.pipeline.bench.windows import Ratio, Window
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Machine(Bench):
    """Windows whose rates are made up: what a setting is worth, times noise."""

    worth: Callable[[Settings], float]
    noise: float
    rng: np.random.Generator

    def warm(self, contents: Any, settings: Settings | None = None) -> Window:
        return self._take(settings, 1.0)

    def cold(self, contents: Any, part: int, settings: Settings | None = None) -> tuple[Window, float | None]:
        return self._take(settings, 0.1), None

    def _take(self, settings: Settings | None, factor: float) -> Window:
        rate = factor * self.worth(settings or self.settings) * np.exp(self.noise * self.rng.standard_normal())
        return Window(max(int(1000 * rate), 1), 1, 1.0, 1.0, 0.0, (0.1,), 1)


def machine(tree: Path, worth: Callable[[Settings], float], noise: float, **settings: Any) -> Machine:
    return Machine(
        dataset=open_dataset(tree, "train"),
        settings=Settings(**({"threads": 4, "readers": 4} | settings)),
        batch_size=8,
        worth=worth,
        noise=noise,
        rng=np.random.default_rng(0),
    )


def test_the_best_combination_is_found_and_confirmed(noise_tree: Path) -> None:
    def worth(s: Settings) -> float:
        return 100 * min(s.threads, 6) * (1.5 if s.prefetch == 4 else 1)

    found = sweep(machine(noise_tree, worth, noise=0.02), lambda *report: None)
    assert found.recommended == {"threads": 6, "prefetch": 4}
    assert found.options == "--threads 6 --prefetch 4"
    assert found.gain is not None
    assert found.gain.median == pytest.approx(2.25, rel=0.05)
    assert found.after / found.before == pytest.approx(2.25, rel=0.05)
    assert not found.cold
    assert [p.value for p in found.points if p.option == "threads"] == [1, 2, 4, 6, 8]
    assert [p.value for p in found.points if p.in_force] == [4, 4, 2]  # threads, readers, prefetch


def test_noise_is_not_recommended(noise_tree: Path) -> None:
    """All settings are alike, windows differ by a fifth: of 200 sweeps at most a few fall for it."""
    bench = machine(noise_tree, lambda s: 500, noise=0.2)
    fooled = sum(bool(sweep(bench, lambda *report: None).recommended) for _ in range(200))
    assert fooled <= 12


def test_drift_is_not_recommended(noise_tree: Path) -> None:
    """A machine that becomes faster all the time, by a tenth from one window to the next at first."""
    taken = [0]

    def worth(s: Settings) -> float:
        taken[0] += 1
        return 100 * taken[0]

    assert not sweep(machine(noise_tree, worth, noise=0.0), lambda *report: None).recommended


def test_a_small_gain_is_not_worth_an_option(noise_tree: Path) -> None:
    found = sweep(machine(noise_tree, lambda s: 5000 + s.prefetch, noise=0.0), lambda *report: None)
    assert found.recommended == {}
    assert found.gain is None
    assert found.before == found.after


def test_data_larger_than_memory_is_read_from_the_disk(noise_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.pipeline.bench.conditions.memory", lambda: (1, 1))
    found = sweep(machine(noise_tree, lambda s: 100 * s.readers, noise=0.0, readers=4), lambda *report: None)
    assert found.cold
    assert found.recommended == {"readers": 16}
    assert found.after == pytest.approx(160_000, rel=0.02)


def test_a_gpu_has_one_more_option() -> None:
    on_gpu = candidates(Settings(threads=16, device_id=0, hw_decoder_load=0.4))
    assert list(on_gpu) == ["hw_decoder_load", "threads", "readers", "prefetch"]
    assert on_gpu["hw_decoder_load"] == [0.0, 0.25, 0.4, 0.5, 0.65, 0.8, 1.0]
    assert "hw_decoder_load" not in candidates(Settings())


@given(st.integers(1, 256), st.integers(1, 256), st.integers(1, 16))
def test_what_is_in_force_is_among_the_candidates(threads: int, readers: int, prefetch: int) -> None:
    settings = Settings(threads=threads, readers=readers, prefetch=prefetch)
    for option, values in candidates(settings).items():
        assert getattr(settings, option) in values
        assert values == sorted(set(values))
        assert min(values) >= 1


def test_clearly_better_is_in_every_round_and_by_enough() -> None:
    gains = [
        Ratio(1.5, 0.99, 2.0),
        Ratio(1.2, 1.1, 1.3),
        Ratio(1.0, 1.0, 1.0),
        Ratio(WORTH_IT, 1.01, 1.1),
        Ratio(1.1, 1.05, 1.2),
    ]
    assert [is_clear(gain) for gain in gains] == [False, True, False, False, True]
    assert winner(gains) == 1
    assert winner(gains[2:4]) is None
    assert winner([Ratio(1.49, 1.4, 1.5), *gains[1:], Ratio(1.5, 1.4, 1.6)]) == 0  # as good, and costs less
