"""rpm's database of installed packages: a store of headers, in one of three formats.

====================  ====================================================================
``rpmdb.sqlite``      read (rpm 4.16 and later; Fedora, RHEL 9)
``Packages.db``       ndb, read (SUSE)
``Packages``          Berkeley DB, read: hash and B-tree, both byte orders (RHEL 8 and before)
====================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree
from guestctl.detectors.packages.rpm import berkeley, ndb, sqlite
from guestctl.detectors.packages.rpm.header import Header
from guestctl.detectors.report.packages import Package, PackageFile

_DIRECTORIES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm")
# A host with everything installed has some 300 MiB.
_MAX_DATABASE_BYTES = 1 << 30
_BACKENDS: tuple[tuple[str, Callable[[bytes], Iterator[bytes]]], ...] = (
    ("rpmdb.sqlite", sqlite.headers),
    ("Packages.db", ndb.headers),
    ("Packages", berkeley.headers),
)


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """Installed packages with their files, gpg-pubkey among them, as ``rpm -qa`` names them.

    A damaged header raises after the others.
    """
    failure: InvalidFormat | None = None
    for blob in _headers(tree):
        try:
            header = Header(blob)
            package = header.package()
        except InvalidFormat as error:
            failure = failure or error
            continue
        yield package, header.files()
    if failure is not None:
        raise failure


def _headers(tree: Tree) -> Iterator[bytes]:
    for directory in _DIRECTORIES:
        for name, headers in _BACKENDS:
            path = f"{directory}/{name}"
            if tree.is_file(path):
                database = tree.read_bytes(path, limit=_MAX_DATABASE_BYTES)
                if name == sqlite.NAME and tree.is_file(f"{path}-wal"):
                    database = sqlite.with_log(database, tree.read_bytes(f"{path}-wal", limit=_MAX_DATABASE_BYTES))
                yield from headers(database)
                return
