"""Which of a data set's images are meant: some of the classes, a few images of each, a share to validate on.

A `Selection` is what was asked for; `choose.py` finds the images. A run keeps the one it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Some of the images of a data set; None leaves nothing out."""

    val_fraction: float | None = None  # share of the training images that is the validation set instead
    classes: tuple[str, ...] | None = None  # lines of a list; each is or begins with the name of a class
    per_class: int | None = None  # training images
    split_seed: int = 0  # decides which images `val_fraction` and `per_class` take

    def __post_init__(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"--val-fraction {self.val_fraction:g} is not between 0 and 1.")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"--per-class {self.per_class}: take at least one image.")

    @property
    def is_everything(self) -> bool:
        return self.val_fraction is None and self.classes is None and self.per_class is None

    def __str__(self) -> str:
        """The options that ask for it; empty if it is everything."""
        options = {"--val-fraction": self.val_fraction, "--per-class": self.per_class}
        if self.split_seed and not self.is_everything:
            options["--split-seed"] = self.split_seed
        words = [f"{option} {value}" for option, value in options.items() if value is not None]
        return " ".join(words + ["--classes-file FILE"] * (self.classes is not None))

    def record(self) -> dict[str, Any]:
        """As JSON can hold it: what was asked for, by field."""
        return {} if self.is_everything else {name: v for name, v in asdict(self).items() if v is not None}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Undo `record`; ValueError or TypeError if it is of another kind."""
        if unknown := record.keys() - {spec.name for spec in fields(cls)}:
            raise ValueError(f"unknown field {min(unknown)!r}")
        classes = record.get("classes")
        return cls(**{**record, "classes": classes and tuple(map(str, classes))})


EVERYTHING = Selection()
