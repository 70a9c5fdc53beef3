"""Licenses of Debian packages, from copyright files of the machine-readable format 1.0 (Debian's "Machine-readable
debian/copyright file"); others are prose, of which nothing is guessed."""

from __future__ import annotations

import re

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree, read_config

_LICENSE = re.compile(r"^License: *(\S.*)", re.MULTILINE)
_VERSIONED = re.compile(r"(A?GPL|LGPL|GFDL)-(\d(?:\.\d)?)(\+?)")
# short names that the format defines -> SPDX's identifiers, where they are not the same
_SPDX = {
    "expat": "MIT",
    "apache-2": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "isc": "ISC",
    "zlib": "Zlib",
    "artistic": "Artistic-1.0",
    "perl": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "or": "OR",
    "and": "AND",
}


def debian_licenses(tree: Tree, package: str) -> list[str]:
    """The licenses of all files of a package, by SPDX's names where they have one; sorted."""
    try:
        text = read_config(tree, f"/usr/share/doc/{package}/copyright") or ""
    except InvalidFormat:
        return []  # larger than makes sense
    if not text.startswith("Format"):
        return []
    return sorted({_spdx(name.rstrip(" ")) for name in _LICENSE.findall(text)})


def _spdx(name: str) -> str:
    """A short name, or several with "or" and "and" between them; what is more than that is left as it is."""
    if "," in name or " with " in name:
        return name
    return " ".join(_word(word) for word in name.split(" "))


def _word(word: str) -> str:
    match = _VERSIONED.fullmatch(word)
    if match:
        family, version, later = match.groups()
        return f"{family}-{version if '.' in version else f'{version}.0'}-{'or-later' if later else 'only'}"
    return _SPDX.get(word.lower(), word)
