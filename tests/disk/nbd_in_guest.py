"""What `test_nbd_device` runs in its virtual machine: prints, as one line of JSON, what it saw of NBD devices."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from guestctl.disk import NbdDevice
from guestctl.disk.attachments import attachments

_BLKROGET = 0x125E
_HOLD = """
import time
from guestctl.disk import NbdDevice
with NbdDevice("/disk.qcow2") as nbd:
    print(nbd.device, flush=True)
    time.sleep(600)
"""


def _in_use() -> list[str]:
    return sorted(path.parent.name for path in Path("/sys/block").glob("nbd*/pid"))


def _servers() -> int:
    """How many there are in the end."""
    for _ in range(100):
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        count = sum(b"serve\0nbd" in line for line in lines)
        if not count:
            break
        time.sleep(0.1)
    return count


def _look(nbd: NbdDevice) -> dict[str, Any]:
    with open(nbd.device, "rb") as device:
        content = device.read()
        read_only = struct.unpack("i", fcntl.ioctl(device, _BLKROGET, bytes(4)))[0]
    return {
        "device": nbd.device,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "read_only": bool(read_only),
    }


def main() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    try:
        with NbdDevice("/disk.qcow2", load_module=True) as nbd, NbdDevice("/disk.vmdk", format="vmdk") as other:
            seen["native"] = _look(nbd)
            seen["vmdk"] = _look(other)
            seen["listed"] = [[one.device, one.source, one.stale] for one in attachments()]
            raise ZeroDivisionError
    except ZeroDivisionError:
        seen["in use after an exception"] = _in_use()
    with NbdDevice("/disk.qcow2", engine="qemu-nbd") as nbd:
        seen["qemu-nbd"] = _look(nbd)
    seen["in use after exit"] = _in_use()
    with subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"/dev/nbd0\n"
        holder.kill()
    seen["in use after kill -9"] = _in_use()
    seen["servers after kill -9"] = _servers()
    with NbdDevice("/disk.qcow2", overlay="/tmp/overlay") as nbd, open(nbd.device, "r+b") as device:
        device.seek(1 << 20)
        device.write(b"written")
        device.flush()
        os.fsync(device.fileno())
    overlay = Path("/tmp/overlay").read_bytes()
    with open("/dev/vda", "r+b") as out:
        out.write(len(overlay).to_bytes(8, "little").ljust(512, b"\0") + overlay)
        out.flush()
        os.fsync(out.fileno())
    return seen


if __name__ == "__main__":
    print(json.dumps(main()))
