"""Java archives: what Maven left in them (``META-INF/maven/…/pom.properties``), else their manifest.

Archives in an archive, as in those of Spring Boot and of web applications, are looked into to a depth.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree, assignments
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.texts import fields

_POM = re.compile(r"META-INF/maven/[^/]+/[^/]+/pom\.properties")
_MANIFEST = "META-INF/MANIFEST.MF"
_MAX_ARCHIVE_BYTES = 1 << 30
_MAX_NESTED_BYTES = 64 << 20
# Of all that is read out of an archive and of those in it, each member counting as so many bytes more: members may
# lie over one another, and archives in each other.
_MAX_READ_BYTES = 1 << 30
_MEMBER_BYTES = 64 << 10
_MAX_TEXT_BYTES = 1 << 20
_MAX_DEPTH = 3
_MAX_MEMBERS = 1 << 20
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError,
    OverflowError,
)  # fmt: skip


def packages(tree: Tree, path: str) -> Iterator[Package]:
    device = tree.device(path)
    if device.size > _MAX_ARCHIVE_BYTES:
        raise InvalidFormat(f"{device.size} bytes", structure="Java archive", offset=0)
    digest = hashlib.sha1(usedforsecurity=False)
    for buffer in device.buffers(0, device.size):
        digest.update(buffer)
    with tree.open(path) as stream:
        yield from _archive(stream, path, digest.hexdigest(), _Reader(), 0)


class _Reader:
    """Reads members, until they are too many bytes."""

    def __init__(self) -> None:
        self._left = _MAX_READ_BYTES

    def read(self, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
        with archive.open(name) as member:
            data = member.read(limit + 1)
        self._left -= len(data) + _MEMBER_BYTES
        if len(data) > limit or self._left < 0:
            least = limit if len(data) > limit else _MAX_READ_BYTES
            raise InvalidFormat(f"{name}: more than {least} bytes", structure="Java archive", offset=0)
        return data


def _archive(stream: IO[bytes], path: str, digest: str, reader: _Reader, depth: int) -> Iterator[Package]:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            if len(names) > _MAX_MEMBERS:
                raise InvalidFormat(f"{len(names)} members", structure="Java archive", offset=0)
            yield from _identities(archive, names, path, digest, reader)
            nested = [name for name in names if name.endswith(".jar")]
            for name in nested if depth < _MAX_DEPTH else ():
                data = reader.read(archive, name, _MAX_NESTED_BYTES)
                sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
                yield from _archive(io.BytesIO(data), f"{path}!/{name}", sha1, reader, depth + 1)
    except _ZIP_ERRORS as error:
        raise InvalidFormat(f"{path}: {error}", structure="Java archive", offset=0) from None


def _identities(
    archive: zipfile.ZipFile, names: list[str], path: str, digest: str, reader: _Reader
) -> Iterator[Package]:
    """One for each artifact of Maven: several where libraries were copied into one archive."""
    poms = [name for name in names if _POM.fullmatch(name)]
    for name in poms:
        values = dict(assignments(reader.read(archive, name, _MAX_TEXT_BYTES).decode("utf-8", "replace")))
        if values.get("artifactId") and values.get("version"):
            yield Package(
                manager="maven",
                namespace=values.get("groupId", ""),
                name=values["artifactId"],
                version=values["version"],
                path=path,
                digests={"sha1": digest} if len(poms) == 1 else {},
            )
    if not poms and _MANIFEST in names:
        yield from _by_manifest(reader.read(archive, _MANIFEST, _MAX_TEXT_BYTES), path, digest)


def _by_manifest(data: bytes, path: str, digest: str) -> Iterator[Package]:
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\n ", "")
    values = dict(fields(text))
    name = values.get("bundle-symbolicname", "").partition(";")[0] or values.get("implementation-title", "")
    version = values.get("bundle-version") or values.get("implementation-version")
    if name and version:
        yield Package(
            manager="maven",
            name=name,
            version=version,
            publisher=values.get("implementation-vendor", ""),
            path=path,
            digests={"sha1": digest},
        )
