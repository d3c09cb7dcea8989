"""An experiment in its folder: what is trained on what, and which runs that makes.

`variations.py` says what is changed. A run is an ordinary run folder, FOLDER/<variation>/seed-<n>; `results.py` tells
how it ended. The same experiment may be asked for again with other variations and more seeds: they are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ...pipeline.errors import UserError
from ...pipeline.files import write_atomically
from ..config import Config
from ..settings.setting import as_text
from .variations import BASE

FILE, FORMAT, VERSION = "experiment.json", "alexnet-ablation", 1


@dataclass(frozen=True)
class Run:
    """One training of one variation."""

    variation: str
    seed: int
    config: Config
    folder: Path

    def __str__(self) -> str:
        return f"{self.variation}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A base, variations of it and the number of seeds of each; the base is among them, with the most seeds."""

    folder: Path
    base: Config
    data: Mapping[str, str]  # fingerprints of the training and of the validation set
    changes: Mapping[str, Mapping[str, Any]]  # of the base, by variation
    num_seeds: Mapping[str, int] = field(default_factory=dict)  # by variation

    @classmethod
    def plan(
        cls, folder: Path, base: Config, data: Mapping[str, str], changes: Mapping[str, Mapping[str, Any]], seeds: int
    ) -> Self:
        """Return the experiment that is asked for, added to what the folder holds of it; nothing is written.

        UserError if the folder holds another experiment, or if all seeds would give the same run.
        """
        if seeds > 1 and None not in (base.init_seed, base.data_seed):
            raise UserError(
                "--init-seed and --data-seed leave nothing that --seeds could change: all runs of a variation would be "
                "the same. Leave one of them out, or give --seeds 1."
            )
        changes = {BASE: {}} | dict(changes)
        num_seeds = dict.fromkeys(changes, seeds)
        asked = cls(folder=folder, base=base, data=data, changes=changes, num_seeds=num_seeds)
        if not (folder / FILE).exists():
            return asked
        earlier = cls._read(folder)
        if problem := earlier._differs(asked):
            raise UserError(f"{folder} holds another experiment: {problem}. Choose another --out.")
        num_seeds = dict(earlier.num_seeds) | {
            name: max(seeds, earlier.num_seeds.get(name, 0)) for name in asked.changes
        }
        return replace(asked, changes={**earlier.changes, **asked.changes}, num_seeds=num_seeds)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        path = folder / FILE
        try:
            found = json.loads(path.read_text())
            if (found["format"], found["version"]) != (FORMAT, VERSION):
                raise KeyError("format")
            parts = {name: found[name] for name in ("data", "changes", "num_seeds")}
            return cls(folder=folder, base=Config.from_dict(found["base"]), **parts)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not what `alexnet ablate` wrote: {error}. Choose another --out.") from error

    def _differs(self, asked: Experiment) -> str | None:
        """Return how what is asked for differs from this experiment, apart from variations and their seeds."""
        if self.data != asked.data:
            return "its data set is another one"
        ours, theirs = asdict(self.base), asdict(asked.base)
        differing = (
            f"{name} is {as_text(ours[name])} there, {as_text(theirs[name])} was asked for"
            for name in ours
            if ours[name] != theirs[name]
        )
        return "; ".join(differing) or None

    def save(self) -> None:
        found = {
            "format": FORMAT,
            "version": VERSION,
            "data": self.data,
            "base": asdict(self.base),
            "changes": self.changes,
            "num_seeds": self.num_seeds,
        }
        write_atomically(self.folder / FILE, (json.dumps(found, indent=2) + "\n").encode())

    @property
    def seeds(self) -> range:
        """The seeds of the base; each variation has the first ones of them."""
        return range(self.base.seed, self.base.seed + self.num_seeds[BASE])

    def config(self, variation: str) -> Config:
        """The configuration of a variation, with the first seed."""
        return replace(self.base, **self.changes[variation])

    def runs(self) -> Iterator[Run]:
        """All runs, seed by seed, so that the table fills from the first one on."""
        for number, seed in enumerate(self.seeds):
            for name in self.changes:
                if number < self.num_seeds[name]:
                    config = replace(self.config(name), seed=seed)
                    yield Run(name, seed, config, self.folder / name / f"seed-{seed}")
