"""Settings that do not go together, each good by itself: `config.py` refuses them before anything is built.

A configuration is of type `Any` here, because the module of its class imports this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from .presets import PRESETS


def contradictions(config: Any) -> Iterator[str]:
    """Yield what is wrong with a configuration and what to do about it, one line each."""
    if config.preset not in PRESETS:
        yield f"preset = {config.preset!r}: choose one of {', '.join(PRESETS)}"
    yield from _of_the_network(config)
    yield from _of_single_layers(config)
    for name in ("epoch_log", "fine_tune_log", "step_log"):
        log = getattr(config, name)
        if list(log) != sorted(set(log)):
            yield f"{name} = {log}: list the epochs in rising order"


def _of_the_network(config: Any) -> Iterator[str]:
    multiple = 2 * config.towers
    if config.groups[0] != 1 or not set(config.groups) <= {1, config.towers}:
        yield f"groups = {config.groups}: conv1 needs 1, the others 1 or the groups of conv2 ({config.towers})"
    if any(c % multiple for c in (*config.channels, config.fc)):
        yield f"channels = {config.channels}, fc = {config.fc}: use multiples of {multiple}"
    if not config.cross_talk and config.towers == 1:
        yield "cross_talk = False: there is only one tower; leave it on, or set groups to 1, 2, 1, 2, 2"
    if _repeats(config.without):
        yield f"without = {config.without}: name each layer once"
    if config.lrn_size % 2 == 0:
        yield f"lrn_size = {config.lrn_size}: use an odd number"
    least = 227 - config.crop  # for conv1 to make 55x55 of it
    if not all(least <= a + b <= least + 3 for a, b in (config.conv1_padding[:2], config.conv1_padding[2:])):
        sums = f"left + right and top + bottom must be {least} to {least + 3}"
        yield f"conv1_padding = {config.conv1_padding}: {sums} for crops of {config.crop}"


def _of_single_layers(config: Any) -> Iterator[str]:
    """What `freeze` and `layer_lr` say of layers."""
    for item in config.layer_lr:
        if not _is_factor(item.partition("=")[2]):
            yield f"layer_lr = {item!r}: give a layer and a factor above 0, as in fc8=10"
    named = [*config.freeze, *(item.partition("=")[0] for item in config.layer_lr)]
    if unknown := [name for name in named if name not in config.layers]:
        yield f"{unknown[0]!r} in freeze or layer_lr: this network has the layers {', '.join(config.layers)}"
    if _repeats(named):
        yield f"freeze = {config.freeze}, layer_lr = {config.layer_lr}: name each layer once"
    learning = {*config.layers} - {*config.freeze}
    if not learning:
        yield "freeze names every layer: leave one to learn"
    if learning == {"conv1"} and config.schedule in ("epochs", "fine-tune"):
        yield f"freeze leaves conv1 alone, and --schedule {config.schedule} freezes it too: leave another to learn"


def _repeats(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _is_factor(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
