"""Does a run learn? Which rate suits a batch size, and the signs of a run that is stuck.

`alexnet train` prints `rate_note` before training. `trainer.py` counts live units at each step and shows each window's
record to a `Watch`, whose findings go to the user and into `metrics.jsonl`. Nothing here needs a pass of its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .config import Config
from .history import Record
from .parallel.axis import Axis

AT_CHANCE = 0.98  # of the loss of guessing: plateaus of slow starts lie between this and 1
HAS_LEARNED = 0.8  # of the same: a loss that was below this and comes halfway back has jumped
MOST_DEAD = 0.95  # share of a layer's units; in runs that learn, up to half of them rest for a window
PATIENCE = 200, 2000  # steps at chance, at least and at most; between them a tenth of the run
DIVERGED = "diverged"  # the sign in `metrics.jsonl` of a run that ended because numbers were no longer finite
SPAN = 20  # steps that are judged together, however short the windows


def rate_per_image(config: Config) -> float:
    """Return the preset's first rate scaled so that an image counts as much: `lr` x batch / the preset's batch."""
    preset = Config.from_preset(config.preset)
    return preset.lr * config.batch_size / preset.batch_size


def rate_note(config: Config) -> str | None:
    """Return advice for the user if the batch is not the preset's but the rate still is."""
    preset = Config.from_preset(config.preset)
    ratio = config.batch_size / preset.batch_size
    if ratio == 1 or config.lr != preset.lr:
        return None
    times = f"{1 / ratio:.3g} times" if ratio < 1 else f"1/{ratio:.3g} of"
    low, high = sorted((rate_per_image(config), preset.lr * math.sqrt(ratio)))
    return (
        f"Note: --lr {config.lr:g} was made for batches of {preset.batch_size}. With --batch-size {config.batch_size} "
        f"each image counts {times} what it did; others use --lr {low:.2g} to {high:.2g} (in proportion to the batch, "
        "or to its square root)."
    )


def loss_of_guessing(labels: NDArray[np.int32]) -> float:
    """Return the cross-entropy (nats) of the best guess that sees no image: ln(classes) if all are equally frequent."""
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


class LiveUnits:
    """Tells which units of some layers had any effect in a window: those whose bias got a gradient.

    The gradient of a rectified unit's bias is zero exactly where the unit is off, for all images of a step and for
    all data-parallel ranks, over which gradients are summed. `mp` adds the other tower's units.
    """

    def __init__(self, layers: Mapping[str, nn.Module], mp: Axis) -> None:
        self._biases: dict[str, Any] = {name: layer.bias for name, layer in layers.items()}
        self._mp = mp
        self._live: dict[str, Tensor] = {}

    def add(self) -> None:
        """Count a step while `.grad` still holds its gradients; a frozen layer has none, and is left out."""
        for name, bias in self._biases.items():
            if bias.grad is None:
                continue
            live = bias.grad != 0
            self._live[name] = live if name not in self._live else self._live[name].logical_or_(live)

    def flush(self) -> dict[str, float]:
        """Return the share of dead units of each layer, {"dead_fc6": 0.1, ...}, and begin a new window."""
        counts = torch.tensor([[int(live.sum()), len(live)] for live in self._live.values()], dtype=torch.float64)
        shares = {
            f"dead_{name}": round(1 - live / units, 4)
            for name, (live, units) in zip(self._live, self._mp.sum(counts).tolist(), strict=True)
        }
        self._live = {}
        return shares


class Watch:
    """Judges windows of training by their records; `look` returns new warnings.

    Each sign is reported once, and again only after it was gone. `past` holds the records of a resumed run.
    """

    def __init__(
        self, config: Config, labels: NDArray[np.int32], steps_per_epoch: int, past: Iterable[Record] = ()
    ) -> None:
        self._config, self._chance, self._steps_per_epoch = config, loss_of_guessing(labels), steps_per_epoch
        least, most = PATIENCE
        self._patience = min(max(config.epochs * steps_per_epoch // 10, least), most)
        self._span: deque[tuple[int, Record]] = deque()  # (steps, record): the last windows, `SPAN` steps together
        self._lowest = math.inf
        self._position = 0
        self._told: set[str] = set()
        for record in past:
            if record["kind"] == "train":
                self.look(record)

    def look(self, record: Record) -> list[Record]:
        """Return new warnings for `metrics.jsonl`: {"kind": "warning", "sign": ..., "text": ...}."""
        position = record["epoch"] * self._steps_per_epoch + record["step"]
        self._span.append((position - self._position, record))
        self._position = position
        while sum(steps for steps, _ in self._span) - self._span[0][0] >= SPAN:
            self._span.popleft()
        steps = sum(steps for steps, _ in self._span)
        if steps < SPAN:
            return []
        loss = sum(n * r["loss"] for n, r in self._span) / steps
        signs = dict(self._signs(loss))
        self._lowest = min(self._lowest, loss)
        new = [
            {"kind": "warning", "epoch": record["epoch"], "step": record["step"], "sign": sign, "text": text}
            for sign, text in signs.items()
            if sign not in self._told
        ]
        self._told = set(signs)
        return new

    def _signs(self, loss: float) -> Iterator[tuple[str, str]]:
        """Yield what is wrong now, as (sign, text); `loss` is the mean of the span."""
        if self._lowest < HAS_LEARNED * self._chance and loss > (self._lowest + self._chance) / 2:
            text = (
                f"The loss has jumped back to {loss:.3f} from {self._lowest:.3f}; "
                f"guessing reaches {self._chance:.3f}. The rate is too high: {self._remedy()}."
            )
            yield "jumped back", text
        elif loss >= AT_CHANCE * self._chance and self._position >= self._patience:
            text = (
                f"After {self._position:,} steps the loss is {loss:.3f}, and guessing reaches {self._chance:.3f}: "
                f"nothing is learned yet. If it stays there, {self._remedy()}."
            )
            yield "at chance", text
        for key in sorted(k for k in self._span[-1][1] if k.startswith("dead_")):
            share = min(r.get(key, 0.0) for _, r in self._span)
            if share >= MOST_DEAD:
                text = (
                    f"{share:.0%} of the units of {key.removeprefix('dead_')} are dead: no image of the last window "
                    f"switched them on, and they learn no more. To fix it, {self._remedy()}."
                )
                yield key, text

    def _remedy(self) -> str:
        """Say what to do, by how the rate compares with the preset's."""
        c, fitting = self._config, rate_per_image(self._config)
        batch = Config.from_preset(c.preset).batch_size
        if c.lr > 1.5 * fitting:
            return f"start again with --lr {fitting:.2g} (now {c.lr:g}; in proportion to batches of {batch})"
        if c.lr < fitting / 5:
            return f"start again with a higher --lr, such as {fitting:.2g} (now {c.lr:g})"
        other = ", or with --preset original, which starts sooner" if c.preset in ("paper", "one-gpu") else ""
        return f"start again with a lower --lr, such as {c.lr / 3:.2g} (now {c.lr:g}){other}"
