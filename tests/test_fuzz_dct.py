"""Some rounds of `fuzz_dct.py`: damaged coefficients are refused or decoded, within their own memory."""

from __future__ import annotations

import shutil

import fuzz_dct
import pytest


def test_kernels_agree_about_mutants() -> None:
    assert 200 / 10 < fuzz_dct.go_through(0, 200) < 200


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_sanitizers_find_nothing() -> None:
    done = fuzz_dct.sanitized(200, 60)
    assert done.returncode == 0, done.stderr
    assert "60 rounds" in done.stdout
