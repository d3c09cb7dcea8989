"""Packages that only some features need, and that an installation may lack."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .errors import UserError


def optional(module: str, purpose: str, extra: str) -> ModuleType:
    """Import a module of an optional package; UserError says what needs it and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(how_to_install(purpose, module.partition(".")[0], extra, error)) from error


def how_to_install(purpose: str, package: str, extra: str, error: ImportError) -> str:
    return (
        f"{purpose} needs the package {package} ({error}). Install it from the source folder: "
        f"pip install --editable '.[{extra}]'"
    )
