"""One training run on CIFAR-10, which lives in a file: killed at any time, it goes on to the same bits.

`workers.py` advances the runs of an experiment. Everything random follows from the seed and the number of the epoch, so
that the state is the weights, their velocities and the wrong answers so far. It is saved after every window, a fifth of
an epoch. One thread computes a run, since sums of several threads depend on their number.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.errors import CheckpointError
from ...pipeline.files import whole_file
from ...pipeline.plan import draw_epoch
from ..checkpoint import check_parameters
from .curve import Floats, epochs_to, error_curve, window_bounds
from .images import Cifar
from .networks import build_network
from .settings import BATCH, BIAS_RATE_FACTOR, MOMENTUM, WINDOWS, Settings
from .views import NUM_OFFSETS, TEST_OFFSETS, Views

FORMAT = "alexnet cifar run 1"
TEST_BATCH = 500


@dataclass(frozen=True)
class Outcome:
    """How far a run is."""

    settings: Settings
    num_images: int  # of the training set
    wrong: list[int] = field(default_factory=list)  # wrong answers in each window
    diverged: bool = False  # the loss was not finite in the last window
    test_wrong: dict[str, int] = field(default_factory=dict)  # wrong answers on the test set: "1 view", "9 views"

    @property
    def epochs(self) -> float:
        return len(self.wrong) / WINDOWS

    def until(self, epoch: int) -> Outcome:
        """Return how far the run was at the end of that epoch, if it is further now."""
        if len(self.wrong) <= epoch * WINDOWS:
            return self
        return replace(self, wrong=self.wrong[: epoch * WINDOWS], diverged=False, test_wrong={})

    def curve(self) -> tuple[Floats, Floats]:
        return error_curve(self.wrong, self.num_images)

    def epochs_to_target(self) -> float | None:
        return epochs_to(*self.curve())

    def last_error(self) -> float:
        """The training error over the last epoch, 0..1; 1 after divergence and before the first epoch ends."""
        error = self.curve()[1]
        return float(error[-1]) if len(error) and not self.diverged else 1.0


def read_outcome(path: Path, settings: Settings, cifar: Cifar) -> Outcome:
    """Return how far the run in this file is; CheckpointError if it is a run of other settings or images."""
    return _read(path, settings, cifar)[0] if path.exists() else Outcome(settings, len(cifar.train))


class Run:
    """A run, as far as its file says, or at its start."""

    def __init__(self, path: Path, settings: Settings, cifar: Cifar) -> None:
        self.path, self.settings, self.cifar = path, settings, cifar
        self.train = Views(cifar.train, cifar.mean, cropped=settings.cropped)
        self.labels = torch.from_numpy(cifar.train_labels)
        self.model = build_network(
            settings.network,
            settings.neuron,
            size=self.train.size,
            seed=settings.seed,
            normalisation=settings.normalisation,
            local3=settings.local3,
        )
        self.velocities = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        self.outcome = Outcome(settings, len(cifar.train))
        if path.exists():
            self.outcome, entries = _read(path, settings, cifar)
            self._restore(entries)

    def advance(self, epochs: int, *, until_target: bool, report: Callable[[Outcome], None]) -> None:
        """Train to the end of an epoch, or only until 25% training error; call `report` after every epoch."""
        while len(self.outcome.wrong) < epochs * WINDOWS and not self.outcome.diverged:
            if until_target and self.outcome.epochs_to_target() is not None:
                return
            wrong, loss = self._train_window(*divmod(len(self.outcome.wrong), WINDOWS))
            self._save([*self.outcome.wrong, wrong], diverged=not np.isfinite(loss))
            if len(self.outcome.wrong) % WINDOWS == 0:
                report(self.outcome)

    def test(self) -> None:
        """Count a cropped run's wrong answers on the test set: by the central view, and by the mean of nine."""
        if not self.outcome.test_wrong:
            self._save(self.outcome.wrong, diverged=self.outcome.diverged, test_wrong=self._test())

    def _train_window(self, epoch: int, window: int) -> tuple[int, float]:
        """Train on a fifth of an epoch; return wrong answers and the last loss."""
        bounds = window_bounds(len(self.cifar.train))
        plan = draw_epoch(len(self.cifar.train), self.settings.seed, epoch, num_offsets=NUM_OFFSETS)
        rate, stop = self.settings.rate_in(epoch), int(bounds[window + 1])
        wrong, loss = torch.zeros((), dtype=torch.int64), torch.zeros(())
        for start in range(int(bounds[window]), stop, BATCH):
            positions = slice(start, min(start + BATCH, stop))
            labels = self.labels[torch.from_numpy(plan.order[positions].astype(np.int64))]
            logits = self.model(self.train.drawn(plan, positions))
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            update(self.model, self.velocities, rate, self.settings.decay)
            wrong += (logits.argmax(1) != labels).sum()
        return int(wrong), loss.item()

    @torch.inference_mode()
    def _test(self) -> dict[str, int]:
        views = Views(self.cifar.test, self.cifar.mean, cropped=True)
        wrong = {"1 view": 0, "9 views": 0}
        for start in range(0, len(self.cifar.test), TEST_BATCH):
            images = np.arange(start, min(start + TEST_BATCH, len(self.cifar.test)))
            labels = torch.from_numpy(self.cifar.test_labels[images])
            found = torch.stack([self.model(views.at(images, *place)).softmax(1) for place in TEST_OFFSETS])
            for kind, probabilities in (("1 view", found[len(found) // 2]), ("9 views", found.mean(0))):
                wrong[kind] += int((probabilities.argmax(1) != labels).sum())
        return wrong

    def _save(self, wrong: list[int], *, diverged: bool = False, test_wrong: dict[str, int] | None = None) -> None:
        self.outcome = Outcome(self.settings, len(self.cifar.train), wrong, diverged, test_wrong or {})
        about = {
            "format": FORMAT,
            "data": self.cifar.fingerprint,
            "settings": asdict(self.settings),
            "wrong": wrong,
            "diverged": diverged,
            "test_wrong": test_wrong or {},
        }
        arrays = {f"weight/{name}": p.detach().numpy() for name, p in self.model.named_parameters()}
        arrays |= {f"velocity/{name}": v.numpy() for name, v in self.velocities.items()}
        with whole_file(self.path) as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]  # as in checkpoint.py

    def _restore(self, entries: dict[str, np.ndarray]) -> None:
        parameters = dict(self.model.named_parameters())
        for kind, into in (("weight", parameters), ("velocity", self.velocities)):
            found = {name.partition("/")[2]: a for name, a in entries.items() if name.startswith(f"{kind}/")}
            check_parameters(f"{self.path}: {kind}", parameters, found)
            for name, tensor in into.items():
                tensor.data.copy_(torch.from_numpy(found[name]))


@torch.no_grad()
def update(model: nn.Module, velocities: dict[str, Tensor], rate: float, decay: Mapping[str, float]) -> None:
    """Take the paper's step (s5): v <- 0.9 v - rate (g + decay w); w <- w + v. Gradients are gone afterwards."""
    for name, parameter in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        own = rate * (BIAS_RATE_FACTOR if kind == "bias" else 1.0)
        velocity = velocities[name].mul_(MOMENTUM)
        assert parameter.grad is not None
        velocity.add_(parameter.grad, alpha=-own)
        if kind == "weight" and layer in decay:
            velocity.add_(parameter, alpha=-own * decay[layer])
        parameter.add_(velocity)
        parameter.grad = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, with numbers too small for a normalised float as zeros: dead units' velocities end so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def _read(path: Path, settings: Settings, cifar: Cifar) -> tuple[Outcome, dict[str, np.ndarray]]:
    """Return how far the run in the file is, and the file's arrays."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            entries = {name: archive[name] for name in archive.files}
        about = json.loads(str(entries.pop("about")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is no run on CIFAR-10, or is damaged: {error}. Remove it.") from error
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path} has the format {about.get('format')!r}, not {FORMAT!r}. Use another --out.")
    if about["settings"] != json.loads(json.dumps(asdict(settings))):
        raise CheckpointError(f"{path} is a run with other settings. Use another --out.")
    if about["data"] != cifar.fingerprint:
        raise CheckpointError(f"{path} is a run on other images. Give those, or use another --out.")
    outcome = Outcome(settings, len(cifar.train), about["wrong"], about["diverged"], about["test_wrong"])
    return outcome, entries
