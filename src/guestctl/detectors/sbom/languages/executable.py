"""Executables that say what they were built from: Go's build information, Rust's by cargo-auditable."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages import go, rust
from guestctl.detectors.sbom.languages.sections import read_sections


def packages(tree: Tree, path: str) -> Iterator[Package]:
    image = read_sections(tree.device(path))
    if image is not None:
        yield from go.packages(image, path)
        yield from rust.packages(image, path)
