"""A JSON file whose every value is checked as it is read: `stats.py` loads statistics with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..pipeline.errors import StatsError

TOLERANCE = 1e-9  # relative; the numbers are written in full, but may come from another machine

Record = TypeVar("Record")


class CheckedJson:
    """A JSON object in a file. Every error names the file, the key, what was expected and what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise StatsError(f"{path}: no such file; `alexnet pca-stats DATA` makes one") from None
        except (OSError, ValueError, RecursionError) as error:
            raise StatsError(f"{path}: expected a JSON file, found: {error}") from error
        if not isinstance(self._data, dict):
            raise StatsError(f"{path}: expected a JSON object, found {type(self._data).__name__}")

    def error(self, key: str, expected: object, found: object) -> StatsError:
        return StatsError(f"{self.path}: {key}: expected {expected}, found {str(found)[:200]}")

    def value(self, key: str, *kinds: type) -> Any:
        """Return the value at `key`; its type must be exactly one of `kinds`."""
        if key not in self._data:
            raise self.error(key, "a value", "none")
        value = self._data[key]
        if kinds and type(value) not in kinds:
            raise self.error(key, " or ".join(kind.__name__ for kind in kinds), repr(value))
        return value

    def expect(self, key: str, expected: object) -> None:
        """Raise StatsError unless the value at `key` is `expected`."""
        if (found := self.value(key)) != expected:
            raise self.error(key, repr(expected), repr(found))

    def integers(self, key: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return self._array(key, shape, "i").astype(np.int64)

    def floats(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the numbers at `key`, which must be finite."""
        array = self._array(key, shape, "if").astype(np.float64)
        if not np.isfinite(array).all():
            raise self.error(key, "finite numbers", array.tolist())
        return array

    def expect_close(self, key: str, expected: NDArray[np.float64]) -> None:
        """Raise StatsError unless the floats at `key` are `expected`, up to rounding."""
        found = self.floats(key, expected.shape)
        if np.abs(found - expected).max() > TOLERANCE * max(1.0, np.abs(expected).max()):
            raise self.error(key, f"{expected.tolist()}, computed from the sums", found.tolist())

    def records(self, key: str, kind: type[Record]) -> list[Record]:
        """Return a list of instances of the dataclass `kind`, whose fields are strings and numbers."""
        return [self._record(key, item, kind) for item in self.value(key, list)]

    def record(self, key: str, kind: type[Record]) -> Record | None:
        """Return one such instance, or None."""
        item = self.value(key, dict, type(None))
        return None if item is None else self._record(key, item, kind)

    def _record(self, key: str, item: Any, kind: type[Record]) -> Record:
        types = get_type_hints(kind)
        if not isinstance(item, dict) or {k: type(v) for k, v in item.items()} != types:
            raise self.error(key, f"{ {k: t.__name__ for k, t in types.items()} }", item)
        return kind(**item)

    def _array(self, key: str, shape: tuple[int, ...], kinds: str) -> NDArray[Any]:
        try:
            array = np.array(self.value(key, list))
        except (ValueError, OverflowError) as error:
            raise self.error(key, f"numbers of shape {shape}", error) from error
        if array.shape != shape or array.dtype.kind not in kinds:
            wanted = "integers" if kinds == "i" else "numbers"
            raise self.error(key, f"{wanted} of shape {shape}", f"{array.dtype} of shape {array.shape}")
        return array
