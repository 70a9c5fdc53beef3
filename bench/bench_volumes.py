"""Volumes beside the disks they lie on: the same bytes, copied once, by processor time.

usage: bench_volumes.py [MIB-PER-MEMBER]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import ROUNDS

from guestctl.block import BlockDevice, FileDevice, SliceDevice
from guestctl.disk.volumes.raid.linear import Concatenation, Stripes
from guestctl.disk.volumes.raid.mirrors import MirroredStripes, parse_layout
from guestctl.disk.volumes.raid.parity import LEFT_SYMMETRIC, ParityStripes

MIB = 1 << 20
_SINK = memoryview(bytearray(64 * MIB))  # more than the processor's caches hold


def copy(device: BlockDevice) -> int:
    """Copy all of a device, as whoever writes, hashes or sends it would at least."""
    at = 0
    for buffer in device.buffers(0, device.size):
        if at + len(buffer) > len(_SINK):
            at = 0
        _SINK[at : at + len(buffer)] = buffer
        at += len(buffer)
    return device.size


def contest(contestants: dict[str, Callable[[], int]]) -> None:
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            started = time.process_time()
            size = run()
            best[name] = min(best.get(name, 9e9), (time.process_time() - started) / size)
    first = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"  {name:<44} {1e-6 / seconds:8.0f} MB/s {seconds / first:6.2f} x the first's time")


def main() -> None:
    size = int(sys.argv[1] if len(sys.argv) > 1 else 128) * MIB
    with tempfile.TemporaryDirectory() as directory:
        disks = []
        for number in range(6):
            path = Path(directory, str(number))
            path.write_bytes(os.urandom(MIB) * (size // MIB))
            disks.append(FileDevice.open(path))
        four: list[BlockDevice] = [SliceDevice(disk, MIB, size - MIB) for disk in disks[:4]]
        print("four disks, and volumes of the same bytes")
        contest(
            {
                "the disks one after the other": lambda: sum(map(copy, four)),
                "linear": lambda: copy(Concatenation(four)),
                "RAID0, chunks of 512 KiB": lambda: copy(Stripes(four, 512 << 10)),
                "RAID0, chunks of 64 KiB": lambda: copy(Stripes(four, 64 << 10)),
                "RAID10 in two near copies, 512 KiB": lambda: copy(
                    MirroredStripes(four, 512 << 10, parse_layout(0x102, 4))
                ),
            }
        )
        legs: list[BlockDevice | None] = list(disks)
        print("six disks with parity")
        contestants: dict[str, Callable[[], int]] = {}
        for chunk in (512 << 10, 16 << 10):
            for level, missing in ((5, ()), (5, (0,)), (6, (0,)), (6, (0, 2))):
                used = [None if number in missing else leg for number, leg in enumerate(legs)]
                array = ParityStripes(used, chunk, level, LEFT_SYMMETRIC)
                contestants[f"RAID{level}, {len(missing)} missing, chunks of {chunk >> 10} KiB"] = partial(copy, array)
        contest(contestants)


main()
