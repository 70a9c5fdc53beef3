"""A whole disk over NBD: nbdcopy from guestctl's server and into its overlay, beside the same with qemu-nbd.

usage: bench_nbd.py QCOW2
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import contest

_COPIES = {
    "nbdcopy": ("nbdcopy",),
    "nbdcopy, one connection": ("nbdcopy", "--connections=1"),
    "nbdcopy, holes read too": ("nbdcopy", "--no-extents"),
}


def start(argv: Sequence[str | Path], listening: Path) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(list(map(str, argv)), stdout=subprocess.DEVNULL)
    while not listening.exists():
        if server.poll() is not None:
            sys.exit(f"{argv[0]} exited with {server.returncode}")
        time.sleep(0.05)
    return server


def write(directory: Path, image: Path) -> None:
    """The disk into an overlay, which each round but the first has in place already."""
    raw = directory / "raw"
    subprocess.run(("qemu-img", "convert", "-O", "raw", image, raw), check=True)
    ours, theirs = directory / "overlay-guestctl", directory / "overlay-qemu"
    create = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.resolve(), "-F", "qcow2")
    for title, copy in _COPIES.items():
        subprocess.run((*create, ours), check=True)
        subprocess.run((*create, theirs), check=True)
        sockets = directory / "write-guestctl", directory / "write-qemu"
        servers = [
            start((guestctl, "serve", "nbd", "--socket", sockets[0], "--overlay", ours, image), sockets[0]),
            start(("qemu-nbd", "--persistent", "--shared=8", "-f", "qcow2", "-k", sockets[1], theirs), sockets[1]),
        ]
        contest(
            f"{title} into an overlay on {image.name}:",
            {
                "guestctl serve nbd --overlay": (*copy, "--flush", raw, f"nbd+unix:///?socket={sockets[0]}"),
                "qemu-nbd": (*copy, "--flush", raw, f"nbd+unix:///?socket={sockets[1]}"),
            },
        )
        for server in servers:
            server.terminate()
            server.wait()
        for path in (ours, theirs, *sockets):
            path.unlink(missing_ok=True)


image = Path(sys.argv[1])
guestctl = Path(sys.executable).parent / "guestctl"
with tempfile.TemporaryDirectory() as directory:
    ours, theirs = Path(directory, "guestctl"), Path(directory, "qemu-nbd")
    servers = [
        start((guestctl, "serve", "nbd", "--socket", ours, image), ours),
        start(("qemu-nbd", "--read-only", "--persistent", "--shared=8", "-f", "qcow2", "-k", theirs, image), theirs),
    ]
    try:
        for title, copy in _COPIES.items():
            contest(
                f"{title} of {image.name} to null:",
                {
                    "guestctl serve nbd": (*copy, f"nbd+unix:///?socket={ours}", "null:"),
                    "qemu-nbd": (*copy, f"nbd+unix:///?socket={theirs}", "null:"),
                },
            )
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    write(Path(directory), image)
