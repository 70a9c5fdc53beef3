"""The errors guestctl raises.

::

    GuestctlError
    ├── InvalidFormat           the bytes are not what the specification says
    │   ├── ChecksumMismatch
    │   └── EndOfDevice         something points past the end of the device
    ├── UnsupportedFeature      known, and refused by name
    ├── LocationRefused         an image names a host file that the user did not allow
    ├── KeyRequired             encrypted, and no key or a wrong one
    ├── DetectionError          nothing we know is there
    ├── ConversionError
    └── CommandFailed           a host tool failed

Paths inside a guest and files on the host raise Python's own ``OSError`` family.
"""

from __future__ import annotations

from collections.abc import Sequence


class GuestctlError(Exception):
    """Base of every error that guestctl defines."""


class InvalidFormat(GuestctlError):
    """The bytes on the disk contradict their specification.

    ``structure`` names it in the specification's words, ``offset`` is where it lies, in bytes, in
    the device that was being read; ``expected`` and ``actual`` are set where one value was wrong.
    """

    def __init__(
        self,
        message: str,
        *,
        structure: str,
        offset: int,
        expected: object = None,
        actual: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.structure = structure
        self.offset = offset
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"{self.structure} at offset {self.offset:#x}: {self.message}"


class ChecksumMismatch(InvalidFormat):
    """A stored checksum is not that of the bytes it covers."""

    def __init__(self, *, structure: str, offset: int, expected: int, actual: int) -> None:
        super().__init__(
            f"checksum is {actual:#x}, expected {expected:#x}",
            structure=structure,
            offset=offset,
            expected=expected,
            actual=actual,
        )


class EndOfDevice(InvalidFormat):
    """A read past the end of a device."""

    def __init__(self, *, offset: int, length: int, size: int) -> None:
        super().__init__(
            f"{length} bytes do not fit in a device of {size} bytes",
            structure="read",
            offset=offset,
            expected=length,
            actual=max(0, min(length, size - offset)),
        )


class UnsupportedFeature(GuestctlError):
    """A structure we recognise and cannot read; ``feature`` is its name."""

    def __init__(self, message: str, *, feature: str) -> None:
        super().__init__(message)
        self.feature = feature


class LocationRefused(GuestctlError):
    """An image refers to a host file outside the directories the user allowed."""

    def __init__(self, message: str, *, location: str) -> None:
        super().__init__(message)
        self.location = location


class KeyRequired(GuestctlError):
    """Encrypted content without a key that opens it; ``device`` is its name."""

    def __init__(self, message: str, *, device: str) -> None:
        super().__init__(message)
        self.device = device


class DetectionError(GuestctlError):
    """Nothing that guestctl knows was found where it was looked for."""


class ConversionError(GuestctlError):
    """An image could not be converted."""


class CommandFailed(GuestctlError):
    """A host program exited with a failure."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str = "") -> None:
        last_line = stderr.strip().rpartition("\n")[2]
        super().__init__(f"{argv[0]} exited with {returncode}" + (f": {last_line}" if last_line else ""))
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
