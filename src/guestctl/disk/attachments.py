"""Records of the block devices that guestctl attached: what a killed process has left can be found and detached.

The kernel frees a loop device itself when its process ends, unless it is mounted or was attached by
``losetup``. A record is a file named after the device in a directory of the user's own.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from guestctl.core.errors import GuestctlError

_MAX_RECORD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Attachment:
    """``device`` gives what is in ``source`` as long as the process ``pid`` wants it."""

    device: str
    source: str
    pid: int
    started: int  # when the process did, in clock ticks since the boot: numbers of processes come again
    sudo: bool = False

    @property
    def stale(self) -> bool:
        """Whether the process is gone."""
        return process_start(self.pid) != self.started

    @property
    def attached(self) -> bool:
        """Whether the device is still what was attached."""
        block = Path("/sys/block", os.path.basename(self.device))
        with suppress(OSError):
            if (block / "loop").is_dir():
                backing = os.fsdecode((block / "loop/backing_file").read_bytes())
                return backing.rstrip("\n").removesuffix(" (deleted)") == self.source
            thread = int((block / "pid").read_text())  # the kernel frees an NBD device when it ends
            return os.path.isdir(f"/proc/{self.pid}/task/{thread}")
        return False


def record(device: str, source: str, *, sudo: bool = False) -> Attachment:
    """Note that this process has attached `device`."""
    pid = os.getpid()
    made = Attachment(device, source, pid, process_start(pid), sudo)
    path = _directory() / os.path.basename(device)
    path.with_suffix(".new").write_text(json.dumps(asdict(made)))
    os.replace(path.with_suffix(".new"), path)
    return made


def forget(attachment: Attachment) -> None:
    """Remove its record, unless the device is another's by now."""
    path = _directory() / os.path.basename(attachment.device)
    if _read(path) == attachment:
        path.unlink(missing_ok=True)


def attachments() -> Iterator[Attachment]:
    """Those of this user that are still attached; records of others are removed."""
    for path in sorted(_directory().iterdir()):
        found = _read(path)
        if found is not None and found.attached:
            yield found
        elif found is not None:
            forget(found)


def process_start(pid: int) -> int:
    """Field 22 of ``/proc/PID/stat``; 0 where there is no such process, or it is dead and only not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == b"Z" else int(fields[19])


def _read(path: Path) -> Attachment | None:
    try:
        with path.open() as file:
            return Attachment(**json.loads(file.read(_MAX_RECORD_BYTES)))
    except (OSError, ValueError, TypeError):
        return None


def _directory() -> Path:
    """Of the user's own: nobody else may name devices that a later command detaches."""
    uid = os.getuid()
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if uid == 0 else tempfile.gettempdir())
    path = Path(base, f"guestctl-{uid}")
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != uid or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise GuestctlError(f"{path}: is not a directory of this user alone")
    return path
