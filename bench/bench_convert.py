"""Conversion, the whole process, beside qemu-img with its best options and a warm cache.

guestctl puts the image on the disk before it gets its name. qemu-img does so with ``-t writeback``;
by default it leaves that to the host, as ``guestctl convert --no-sync`` does.

usage: bench_convert.py GUEST.raw HALF_FULL.raw SCRATCH
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import ROUNDS, contest

guest, half_full, scratch = map(Path, sys.argv[1:])
guestctl = Path(sys.executable).parent / "guestctl"
scratch.mkdir(exist_ok=True)

PLAIN = {
    "raw": ("raw", ""),
    "qcow2": ("qcow2", ""),
    "vmdk": ("vmdk", ""),
    "vmdk flat": ("vmdk", "subformat=monolithicFlat"),
    "vmdk twoGb": ("vmdk", "subformat=twoGbMaxExtentSparse"),
    "vhd": ("vpc", "force_size=on"),
    "vhd fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx", ""),
    "vdi": ("vdi", ""),
}
COMPRESSED = {
    "qcow2 zlib": ("qcow2", ""),
    "qcow2 zstd": ("qcow2", "compression_type=zstd"),
    "streamOptimized": ("vmdk", "subformat=streamOptimized"),
}


def ours(source: Path, format: str, options: str, *more: str) -> list[str | Path]:
    return [guestctl, "convert", *more, "-O", format, *(["-o", options] if options else []), source, target]


def theirs(source: Path, format: str, options: str, *more: str) -> list[str | Path]:
    words = ["qemu-img", "convert", "-m", "16", *more, "-O", format, *(["-o", options] if options else [])]
    return [*words, source, target]


target = scratch / "made"
for source, rounds in ((guest, ROUNDS), (half_full, min(ROUNDS, 2))):
    for name, (format, options) in PLAIN.items():
        contest(
            f"{source.name} to {name}",
            {
                "guestctl": ours(source, format, options),
                "qemu-img -W -t writeback": theirs(source, format, options, "-W", "-t", "writeback"),
                "guestctl --no-sync": ours(source, format, options, "--no-sync"),
                "qemu-img": theirs(source, format, options),
                "qemu-img -W": theirs(source, format, options, "-W"),
            },
            makes=target,
            rounds=rounds,
        )
for name, (format, options) in COMPRESSED.items():
    contest(
        f"{guest.name} to {name}",
        {
            "guestctl": ours(guest, format, options, "-c"),
            "qemu-img": theirs(guest, format, options, "-c"),
            "qemu-img -W": theirs(guest, format, options, "-c", "-W"),
        },
        makes=target,
        rounds=2,
    )
for name, (format, options) in COMPRESSED.items():
    packed = scratch / f"packed.{format}"
    words: list[str | Path] = [
        guestctl,
        "convert",
        "-f",
        "-c",
        "-O",
        format,
        *(["-o", options] if options else []),
        guest,
        packed,
    ]
    subprocess.run(words, check=True)
    contest(
        f"{name} to raw",
        {
            "guestctl": ours(packed, "raw", ""),
            "guestctl --no-sync": ours(packed, "raw", "", "--no-sync"),
            "qemu-img": theirs(packed, "raw", ""),
            "qemu-img -W": theirs(packed, "raw", "", "-W"),
        },
        makes=target,
    )
    packed.unlink()
