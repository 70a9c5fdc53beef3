"""Packages of languages, which no package manager's database lists: found by what their tools leave on the disk.

====================  ========================================================================
``dist-info`` and so  Python, in site-packages and dist-packages
``package.json``      Node, of a package in node_modules
``*.gemspec``         Ruby, in a directory ``specifications``
``installed.json``    PHP, Composer's, in ``vendor/composer``
``*.deps.json``       .NET
``*.jar`` and so      Java
executables           Go and Rust: what the compiler, or cargo-auditable, wrote into them
====================  ========================================================================

The guest's tree is walked once, by names; only what may be one of these is opened.
"""

from __future__ import annotations

import importlib
import re
import stat
from collections.abc import Iterator
from typing import Any

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package
from guestctl.detectors.system import System
from guestctl.disk.stat import FileStat

# Of the running system, or of others: containers have packages of their own.
_NOT_WALKED = ("/proc", "/sys", "/dev", "/run")
_CONTAINERS = ("/var/lib/docker", "/var/lib/containers", "/var/lib/containerd", "/var/lib/lxd", "/var/lib/machines")
_ROOMS = (
    (re.compile(r"/(?:site|dist)-packages/[^/]+\.(?:dist|egg)-info$"), "python"),
    (re.compile(r"/node_modules/(?:@[^/]+/)?[^/@]+/package\.json$"), "node"),
    (re.compile(r"/specifications/(?:default/)?[^/]+\.gemspec$"), "ruby"),
    (re.compile(r"/vendor/composer/installed\.json$"), "php"),
    (re.compile(r"\.deps\.json$"), "dotnet"),
    (re.compile(r"\.[jwe]ar$"), "java"),
)
_CANDIDATE = re.compile("|".join(pattern.pattern for pattern, _ in _ROOMS))
_ENDINGS = ("-info", ".json", ".gemspec", "ar")
# Names of files that are executable by mistake at most.
_NO_PROGRAM = re.compile(
    r"\.(?:so[.\d]*|py|pyc|sh|pl|pm|rb|js|ts|h|c|o|a|ko|gz|xz|zst|txt|html?|css|png|svg|xml|mo|md|conf|service|list|md5sums)$"
)
_MIN_PROGRAM_BYTES = 64 << 10  # the smallest of Go or Rust has some hundred KiB
_MAX_WARNINGS = 100
_MAX_DEPTH = 4096


def language_packages(system: System) -> list[Package]:
    """All of them, in no order. What cannot be read is a warning, and the search goes on."""
    found: list[Package] = []
    warnings: list[str] = []
    for room, path in _candidates(system, warnings):
        try:
            module = importlib.import_module(f"guestctl.detectors.sbom.languages.{room}")
            found += module.packages(system.tree, path)
        except (GuestctlError, OSError) as error:
            warnings.append(f"{path}: {error}")
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"and {len(warnings) - _MAX_WARNINGS} more could not be read"]
    system.warnings += warnings
    return found


def _candidates(system: System, warnings: list[str]) -> Iterator[tuple[str, str]]:
    """(room, path), directories and files."""
    tree = system.tree
    pending: list[tuple[str, Any, int]] = [("", tree.root, 0)]
    seen = {tree.root}
    while pending:
        directory, node, depth = pending.pop()
        for name, child, kind in _entries(tree, directory, node, warnings):
            path = f"{directory}/{name}"
            try:
                kind = kind or stat.S_IFMT(tree.node_stat(child).st_mode)
                program = (
                    kind == stat.S_IFREG and not _NO_PROGRAM.search(name) and _may_be_program(tree.node_stat(child))
                )
            except (GuestctlError, OSError) as error:
                warnings.append(f"{path}: {error}")
                continue
            if kind in (stat.S_IFDIR, stat.S_IFREG) and name.endswith(_ENDINGS) and _CANDIDATE.search(path):
                yield next(room for pattern, room in _ROOMS if pattern.search(path)), path
            elif program:
                yield "executable", path
            elif path in _CONTAINERS:
                warnings.append(f"{path}: what containers have is not listed")
            elif kind == stat.S_IFDIR and path not in _NOT_WALKED and child not in seen and depth < _MAX_DEPTH:
                seen.add(child)
                pending.append((path, child, depth + 1))


def _entries(tree: Tree, path: str, node: Any, warnings: list[str]) -> Iterator[tuple[str, Any, int]]:
    """The names in a directory; of a damaged one those before the damage."""
    try:
        yield from tree.node_entries(node)
    except (GuestctlError, OSError) as error:
        warnings.append(f"{path or '/'}: {error}")


def _may_be_program(status: FileStat) -> bool:
    return status.st_mode & 0o111 != 0 and status.st_size >= _MIN_PROGRAM_BYTES
