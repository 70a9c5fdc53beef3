"""A package's header ("RPM V4 Package format", section "Header format"): an index of tags, then their data.

In a database the header begins with its two counts, without the magic that it has in a package file.
Numbers are big-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.packages.rpm.tags import CONFIG, DIGESTS, MD5, Tag
from guestctl.detectors.report.packages import Package, PackageFile

_COUNTS = Struct(">II")
_ENTRY = Struct(">IIiI")  # tag, type, offset, count
_MAX_TAGS = 0xFFFF  # rpm's own limit
_MAX_DIRECTORY_CHARACTERS = 4096  # PATH_MAX: a few letters of a file must not become many megabytes
_INTEGERS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q"}  # CHAR, INT8, INT16, INT32, INT64
_STRINGS = (6, 8, 9)  # STRING, STRING_ARRAY, I18NSTRING


class Header:
    """The values of a header's tags, each decoded when asked for. All methods raise `InvalidFormat`."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < _COUNTS.size:
            raise _bad(f"{len(blob)} bytes")
        tags, size = _COUNTS.unpack_from(blob)
        self._start = _COUNTS.size + tags * _ENTRY.size
        self._end = self._start + size
        if tags > _MAX_TAGS or self._end > len(blob):
            raise _bad(f"{tags} tags and {size} bytes of data in {len(blob)}")
        self._blob = blob
        self._index = {
            tag: (kind, offset, count)
            for tag, kind, offset, count in _ENTRY.iter_unpack(blob[_COUNTS.size : self._start])
        }

    def _value(self, tag: int) -> tuple[int, int, int] | None:
        """Type, place and count; None where there is no such tag."""
        entry = self._index.get(tag)
        if entry is None:
            return None
        kind, offset, count = entry
        if not 0 <= offset < self._end - self._start:
            raise _bad(f"the value of tag {tag} is at {offset} of {self._end - self._start}")
        return kind, self._start + offset, count

    def text(self, tag: int) -> str:
        """A string, of several languages the first, which is C; empty where there is none."""
        value = self._value(tag)
        if value is None or value[0] not in _STRINGS:
            return ""
        end = self._blob.find(b"\0", value[1], self._end)
        if end < 0:
            raise _bad(f"the value of tag {tag} does not end")
        return self._blob[value[1] : end].decode("utf-8", "surrogateescape")

    def texts(self, tag: int) -> list[str]:
        """The strings of an array."""
        value = self._value(tag)
        if value is None or value[0] not in _STRINGS:
            return []
        _, start, count = value
        parts = self._blob[start : self._end].split(b"\0", count)
        if len(parts) <= count:
            raise _bad(f"tag {tag} has {len(parts) - 1} strings of {count}")
        return [part.decode("utf-8", "surrogateescape") for part in parts[:count]]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The integers of an array."""
        value = self._value(tag)
        if value is None or value[0] not in _INTEGERS:
            return ()
        kind, start, count = value
        array = Struct(f">{count}{_INTEGERS[kind]}")
        if array.size > self._end - start:
            raise _bad(f"{count} integers for tag {tag} in {self._end - start} bytes")
        return array.unpack_from(self._blob, start)

    def number(self, *tags: int) -> int | None:
        """The first of the integers of the first of `tags` that there is."""
        return next((values[0] for tag in tags if (values := self.numbers(tag))), None)

    def package(self) -> Package:
        """What the header says of its package."""
        name = self.text(Tag.NAME)
        if not name:
            raise _bad("no name")
        license = self.text(Tag.LICENSE)
        return Package(
            manager="rpm",
            name=name,
            epoch=self.number(Tag.EPOCH) or 0,
            version=self.text(Tag.VERSION),
            release=self.text(Tag.RELEASE),
            arch=self.text(Tag.ARCH),
            summary=self.text(Tag.SUMMARY),
            description=self.text(Tag.DESCRIPTION),
            url=self.text(Tag.URL),
            publisher=self.text(Tag.VENDOR),
            licenses=[license] if license else [],
            source=self.text(Tag.SOURCERPM),
            install_time=self.number(Tag.INSTALLTIME),
            size=self.number(Tag.LONGSIZE, Tag.SIZE),
        )

    def files(self) -> Iterator[PackageFile]:
        """The files and directories of the package."""
        paths = self._paths()
        algorithm = DIGESTS.get(self.number(Tag.FILEDIGESTALGO) or MD5)
        columns = (
            self.texts(Tag.FILEDIGESTS),
            self.numbers(Tag.FILEFLAGS),
            self.numbers(Tag.LONGFILESIZES) or self.numbers(Tag.FILESIZES),
            self.numbers(Tag.FILEMODES),
            self.numbers(Tag.FILEMTIMES),
            self.texts(Tag.FILEUSERNAME),
            self.texts(Tag.FILEGROUPNAME),
            self.texts(Tag.FILELINKTOS),
        )
        count = len(self.texts(Tag.BASENAMES) or self.texts(Tag.OLDFILENAMES))
        if any(len(column) not in (0, count) for column in columns):
            raise _bad(f"{count} files, and of their attributes {[len(column) for column in columns]}")
        filled = [column or (None,) * count for column in columns]
        for path, digest, flags, size, mode, mtime, owner, group, target in zip(paths, *filled, strict=True):
            yield PackageFile(
                path=path,
                algorithm=algorithm if digest else None,
                digest=digest or None,
                config=bool((flags or 0) & CONFIG),
                size=size,
                mode=mode,
                mtime=mtime,
                owner=owner,
                group=group,
                target=target or None,
            )

    def _paths(self) -> Iterator[str]:
        names = self.texts(Tag.BASENAMES)
        if not names:
            yield from self.texts(Tag.OLDFILENAMES)
            return
        directories, indexes = self.texts(Tag.DIRNAMES), self.numbers(Tag.DIRINDEXES)
        if len(indexes) != len(names) or max(indexes) >= len(directories):
            raise _bad(f"{len(names)} files in {len(directories)} directories by {len(indexes)} indexes")
        if max(map(len, directories)) > _MAX_DIRECTORY_CHARACTERS:
            raise _bad("the name of a directory is longer than a path may be")
        for name, index in zip(names, indexes, strict=True):
            yield directories[index] + name


def _bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="rpm header", offset=0)
