"""Packages that only some features need, and that an installation may lack."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..pipeline.errors import UserError


def optional(module: str, purpose: str, extra: str) -> ModuleType:
    """Import a module of an optional package; UserError says what needs it and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"{purpose} needs the package {package} ({error}). Install it from the source folder: "
            f"pip install --editable '.[{extra}]'"
        ) from error
