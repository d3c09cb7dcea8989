"""The limit is found whatever the machine does meanwhile, and each symptom leads to its options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet.pipeline.bench.conditions import Bench
from alexnet.pipeline.bench.stages import (
    COLD_STAGES,
    STAGES,
    PageCache,
    limit,
    measure_cold,
    measure_warm,
    processor_shares,
    verdict,
)
from alexnet.pipeline.bench.symptoms import symptoms
from alexnet.pipeline.bench.windows import Figures, Window, summarise
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings

NUM_IMAGES, BATCH_SIZE, ROUNDS = 32, 8, 2
FITS = PageCache("ext4", 1.0, 0.0, 1.0, 10.0, fits=True)
IDLE = 1.0  # cores
PHOTOGRAPHS = {"image_megapixels": 0.2, "stored": "encoded"}


def figures(name: str, rate: float, **changes: Any) -> Figures:
    """Of a stage that uses two cores."""
    base = summarise(name, [Window(int(rate), 1, 1.0, 2.0, IDLE, (0.1, 0.1), 1)])
    return replace(base, **changes)


def warm(*rates: float, **changes: Any) -> list[Figures]:
    made = [figures(name, rate) for name, rate in zip(STAGES, rates, strict=True)]
    return [*made[:-1], replace(made[-1], **changes)]


@pytest.mark.parametrize(
    ("rates", "on_cpu", "on_gpu"),
    [
        ((1000, 5000, 990, 990), "reading", "reading"),
        ((9000, 5000, 4000, 1900), "resampling", "hand-off"),
        ((9000, 5000, 3000, 2900), "decoding", "resampling"),
        ((9000, 3000, 2900, 2900), "decoding", "decoding"),
        ((9000, 3000, 4000, 4000), "decoding", "decoding"),  # the region alone may decode faster than the whole
        ((9000, 9100, 9100, 4000), "resampling", "hand-off"),  # raw pixels: there is nothing to decode
    ],
)
def test_the_limit_is_named(rates: tuple[int, ...], on_cpu: str, on_gpu: str) -> None:
    assert (limit(warm(*rates), on_gpu=False), limit(warm(*rates), on_gpu=True)) == (on_cpu, on_gpu)
    for gpu, name in ((False, on_cpu), (True, on_gpu)):
        words = verdict(warm(*rates), gpu, load=0.1)
        assert words.lower().startswith({"hand-off": "handing"}.get(name, name))
        assert "not quiet" not in words


def test_shares_of_the_processor() -> None:
    """Per image 0.1 ms to read, 0.4 with decoding, 0.5 with resampling."""
    found = warm(20_000, 6000, 5000, 4000)
    assert processor_shares(found) == pytest.approx({"decoding": 0.6, "reading": 0.2, "resampling": 0.2})
    assert next(iter(processor_shares(found))) == "decoding"
    assert "processor time: decoding 60%, reading 20%, resampling 20%." in verdict(found, on_gpu=False, load=0.0)
    assert "processor time" not in verdict(found, on_gpu=True, load=0.0)


def test_on_a_busy_processor_processor_time_decides() -> None:
    """A neighbour took three quarters of the loader's time, and nothing of the others'."""
    found = warm(9000, 3000, 2900, 2900)
    found[3] = replace(found[3], images_per_second=700, low=700, high=2900)
    assert limit(found, on_gpu=False) == "decoding"
    assert limit(found, on_gpu=True) == "hand-off"
    assert "not quiet" in verdict(found, on_gpu=False, load=0.0)
    assert "a load of 3.0 before" in verdict(warm(9000, 3000, 2900, 2900), on_gpu=False, load=3.0)


def present(
    found: list[Figures],
    disk: float = 1e5,
    on_gpu: bool = False,
    cache: PageCache = FITS,
    data: dict[str, Any] = PHOTOGRAPHS,
) -> dict[str, str]:
    """Options of the symptoms that are there, by place."""
    cold = [figures("read", disk), figures("loader", min(disk, 3000))]
    return {s.where: s.options for s in symptoms(found, cold, cache, on_gpu, data) if s.present}


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("stages", "symptoms"):
        monkeypatch.setattr(f"alexnet.pipeline.bench.{module}.usable_cores", lambda: 4)


def test_each_symptom_leads_to_its_options() -> None:
    decoding, busy = (9000, 3000, 2900, 2900), {"idle_cores": 0.1, "cores": 3.9}
    assert present(warm(*decoding)) == {"CPU": "more --threads"}
    assert present(warm(*decoding), on_gpu=True) == {"GPU": "other --hw-decoder-load, by --sweep; more --threads"}
    assert present(warm(*decoding, **busy)) == {"CPU": "`alexnet pack --dct`; --decode fast; --device gpu"}
    assert "more --hw-decoder-load" in present(warm(*decoding, **busy), on_gpu=True)["CPU"]
    assert present(warm(*decoding, **busy), disk=2000)["disk"] == "more --readers; `alexnet pack`"
    assert "more memory" in present(warm(*decoding), disk=2000, cache=replace(FITS, fits=False))["disk"]
    assert present(warm(1000, 5000, 990, 990))["disk"] == "other --readers, by --sweep"
    assert "--prefetch" in present(warm(9000, 5000, 4000, 2000), on_gpu=True)["hand-off"]
    assert present(warm(*decoding, latency_ms_p50=10, latency_ms_p99=31))["hand-off"] == "more --prefetch"


def test_a_pack_leads_to_another_kind() -> None:
    busy = warm(9000, 3000, 2900, 2900, idle_cores=0.1, cores=3.9)
    remedies = {
        "encoded": ("", "`alexnet pack --dct`; --decode fast; --device gpu"),
        "dct": ("; `alexnet pack`", "`alexnet pack --raw`; --device gpu"),
        "raw": ("; `alexnet pack --dct`", "--device gpu"),
    }
    for stored, (disk, processor) in remedies.items():
        found = present(busy, disk=2000, data={"image_megapixels": 0.065536, "stored": stored})
        assert found == {"disk": f"more --readers{disk}", "CPU": processor}


def test_cores_taken_by_others_are_not_idle() -> None:
    """The loader has one core of four, others the rest: more threads would not help."""
    assert "--threads" not in present(warm(9000, 3000, 2900, 2900, cores=1.0, idle_cores=0.0))["CPU"]


def test_options_that_are_named_exist() -> None:
    from alexnet.console.command_options import pack_options
    from alexnet.console.options import loading_options

    params = pack_options(loading_options(lambda: None)).__click_params__
    options = {name for param in params for name in param.opts}
    options |= {"--sweep", "--batch-size"}
    for on_gpu in (False, True):
        cold = [figures("read", 1), figures("loader", 1)]
        for symptom in symptoms(warm(1, 1, 1, 1), cold, FITS, on_gpu, PHOTOGRAPHS):
            named = {word.rstrip(";,`") for word in symptom.options.split() if word.startswith("--")}
            assert named <= options


def test_warm_and_cold_stages(noise_tree: Path) -> None:
    bench = Bench(
        dataset=open_dataset(noise_tree, "train"),
        settings=Settings(threads=2),
        batch_size=BATCH_SIZE,
        rounds=ROUNDS,
        seconds=0.1,
    )
    told: list[tuple[str, int, int]] = []
    found, share = measure_warm(bench, lambda *report: told.append(report))
    cold, cache = measure_cold(bench, lambda *report: told.append(report))
    assert [f.name for f in found] == ["read", "decode", "pipeline", "loader"]
    assert [f.name for f in cold] == list(COLD_STAGES) == ["read", "loader"]
    for stage in (*found, *cold):
        assert len(stage.windows) == ROUNDS
        assert 0 < stage.low <= stage.images_per_second <= stage.high < 1e7
        assert 0 <= stage.latency_ms_p50 <= stage.latency_ms_p99 <= stage.latency_ms_max
        assert 50 < stage.peak_rss_megabytes < 50_000
    work = {stage.name: stage.cores_per_1000_images_per_second for stage in found}
    assert work["read"] < min(work["decode"], work["loader"])
    assert share.low <= share.median <= share.high
    assert cache.data_gigabytes == pytest.approx(bench.dataset.lengths.sum() / 1e9)
    assert cache.fits
    total = (ROUNDS + 1) * len(STAGES)
    assert told[:total] == [("stages", done, total) for done in range(1, total + 1)]
    assert told[-1] == ("from the disk", 2 * ROUNDS, 2 * ROUNDS)
