"""Hives of real systems, from the shared test data."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

Load = Callable[[str], bytes]


def load_hive(shared: Path) -> Load:
    """Gives a hive or log by its name."""

    def _load(name: str) -> bytes:
        path = shared / "registry" / name
        return path.read_bytes() if path.exists() else lzma.decompress(path.with_name(f"{name}.xz").read_bytes())

    return _load
