"""Writes over NBD: qemu-io, qemu-img and nbdcopy as clients, their bytes in the overlay, and what the protocol says."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import nbd_client as nbd
from conftest import Run
from guestctl.block import FileDevice
from guestctl.disk.formats.qcow2.in_place import Qcow2Overlay
from guestctl.disk.formats.qcow2.overlay import open_overlay
from nbd_client import Client, serving

_SIZE = 40 << 20
_EPERM, _EINVAL, _ENOSPC, _ENOTSUP = 1, 22, 28, 95
_FUA, _NO_HOLE, _FAST_ZERO = 1, 2, 16


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.raw"
    noise = random.Random(1).randbytes(1 << 20)
    with path.open("wb") as file:
        file.write(noise)
        file.truncate(_SIZE)
        file.seek(_SIZE - len(noise))
        file.write(noise)
    return path


@pytest.fixture
def overlay(base: Path, tmp_path: Path) -> Iterator[Qcow2Overlay]:
    before = base.read_bytes()
    with open_overlay(tmp_path / "overlay", base) as overlay:
        yield overlay
    assert base.read_bytes() == before


@pytest.fixture
def path(overlay: Qcow2Overlay, tmp_path: Path) -> Iterator[Path]:
    with serving(overlay, tmp_path / "socket"):
        yield tmp_path / "socket"


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    with Client(path).go() as client:
        yield client


def write(client: Client, offset: int, data: bytes, flags: int = 0) -> int:
    client.send(nbd.WRITE, offset, len(data), flags=flags)
    client.socket.sendall(data)
    return client.simple_reply()


def change(client: Client, command: int, offset: int, length: int, flags: int = 0) -> int:
    client.send(command, offset, length, flags=flags)
    return client.simple_reply()


# The tools


def test_random_writes_of_qemu(run: Run, base: Path, tmp_path: Path) -> None:
    """The same commands on a raw copy, in two sessions."""
    mirror = tmp_path / "mirror"
    mirror.write_bytes(base.read_bytes())
    source = random.Random(4)
    for _ in range(2):
        commands = []
        for _ in range(60):
            offset = source.randrange(_SIZE // 512) * 512
            length = min(_SIZE - offset, 512 * source.randrange(1, source.choice((8, 300, 4000))))
            kind = source.choice((f"write -P {source.randrange(256)}", "write -f -P 7", "write -z", "write -z -u"))
            commands += ["-c", f"{kind} {offset} {length}"]
        with open_overlay(tmp_path / "overlay", base) as overlay, serving(overlay, tmp_path / "socket") as server:
            run("qemu-io", "-f", "raw", *commands, "-c", "flush", server.uri)
            run("qemu-io", "-f", "raw", *commands, mirror)
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, mirror)
        run("qemu-img", "compare", "-F", "raw", tmp_path / "overlay", mirror)
        run("qemu-img", "check", "-q", tmp_path / "overlay")


def test_copies_into_it(run: Run, base: Path, tmp_path: Path) -> None:
    content = tmp_path / "content"
    with content.open("wb") as file:
        file.truncate(_SIZE)
        for start in (300_000, 5 << 20, 30 << 20):
            file.seek(start)
            file.write(random.Random(start).randbytes(3_333_333))
    copies = {
        "nbdcopy": ("nbdcopy", "--flush", content),
        "allocated": ("nbdcopy", "--allocated", "--connections=4", content),
        "qemu-img": ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", content),
        "out of order": ("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", content),
    }
    for name, argv in copies.items():
        with open_overlay(tmp_path / name, base) as overlay, serving(overlay, tmp_path / "socket") as server:
            run(*argv, server.uri)
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, content)
        run("qemu-img", "compare", "-F", "raw", tmp_path / name, content)
        run("qemu-img", "check", "-q", tmp_path / name)


def test_what_nbdinfo_tells(run: Run, path: Path) -> None:
    (export,) = json.loads(run("nbdinfo", "--json", f"nbd+unix:///?socket={path}"))["exports"]
    assert not export["is_read_only"]
    for what in ("flush", "fua", "trim", "zero", "fast_zero", "multi_conn", "cache", "df"):
        assert export[f"can_{what}"], what


# The protocol


def test_commands(overlay: Qcow2Overlay, client: Client) -> None:
    data = random.Random(2).randbytes(300_000)
    assert write(client, 70_001, data) == 0
    assert client.read(70_001, len(data)) == data
    assert write(client, 5, b"x" * 100, _FUA) == 0
    assert change(client, nbd.FLUSH, 0, 0) == 0
    assert change(client, nbd.TRIM, 131072, 65536, _FUA) == 0
    assert client.read(131072, 65536) == bytes(65536)
    assert change(client, nbd.WRITE_ZEROES, 100_000, 10_000, _FAST_ZERO) == 0
    assert client.read(100_000 - 1, 10_002) == data[29_998:29_999] + bytes(10_000) + data[39_999:40_000]
    assert change(client, nbd.WRITE_ZEROES, 2 << 20, 65536, _NO_HOLE) == 0
    assert client.read(0, 4, flags=_FUA) == overlay.read(0, 4)


def test_long_writes_come_in_pieces(client: Client) -> None:
    data = random.Random(3).randbytes(32 << 20)
    assert write(client, 1001, data) == 0
    assert client.read(1001, 32 << 20) == data
    assert write(client, _SIZE - (3 << 20), data[: 4 << 20]) == _ENOSPC
    assert write(client, 0, b"still there") == 0


def test_block_status(client: Client) -> None:
    def states(offset: int, length: int) -> list[tuple[int, int]]:
        client.send(nbd.BLOCK_STATUS, offset, length)
        ((kind, payload),) = client.chunks()
        assert kind == 5
        return list(struct.iter_unpack(">II", payload[4:]))

    assert states(2 << 20, 4 << 20) == [(4 << 20, 3)]
    write(client, 3 << 20, b"x" * 65536)
    assert states(2 << 20, 4 << 20) == [(1 << 20, 3), (65536, 0), ((3 << 20) - 65536, 3)]
    change(client, nbd.TRIM, 3 << 20, 65536)
    assert states(2 << 20, 4 << 20) == [(4 << 20, 3)]
    change(client, nbd.WRITE_ZEROES, 2 << 20, 1 << 20, _NO_HOLE)
    assert states(2 << 20, 4 << 20) == [(1 << 20, 0), (3 << 20, 3)]
    change(client, nbd.TRIM, 0, 65536)
    assert states(0, 131072) == [(65536, 3), (65536, 0)]


def test_requests_that_fail(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, number in ((nbd.WRITE_ZEROES, _ENOSPC), (nbd.TRIM, _EINVAL)):
        for offset, length in ((_SIZE, 1), (_SIZE - 1, 2), (2**64 - 1, 2**32 - 1)):
            assert change(client, command, offset, length) == number
        assert change(client, command, 0, 0) == _EINVAL
    assert write(client, _SIZE - 1, b"xx") == _ENOSPC
    assert write(client, 0, b"") == _EINVAL
    assert write(client, 0, b"x" * 100, _NO_HOLE) == _EINVAL
    assert change(client, nbd.TRIM, 0, 512, _NO_HOLE) == _EINVAL
    assert change(client, nbd.WRITE_ZEROES, 0, 512, _NO_HOLE | _FAST_ZERO) == _ENOTSUP
    for number, expected in ((errno.ENOSPC, 28), (errno.EDQUOT, 28), (errno.EFBIG, 28), (errno.EIO, 5)):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        for name in ("write", "discard", "flush"):
            monkeypatch.setattr(Qcow2Overlay, name, fail)
        assert write(client, 0, b"x" * 512) == expected
        assert write(client, 0, b"x" * (3 << 20)) == expected
        assert change(client, nbd.TRIM, 0, 512) == expected
        assert change(client, nbd.FLUSH, 0, 0) == expected
        monkeypatch.undo()
    assert write(client, 0, b"x" * 512) == 0


def test_old_overlays_are_slow_with_zeros(run: Run, base: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", base, "-F", "raw", tmp_path / "old")
    with (
        open_overlay(tmp_path / "old", base) as overlay,
        serving(overlay, tmp_path / "socket"),
        Client(tmp_path / "socket").go() as client,
    ):
        assert change(client, nbd.WRITE_ZEROES, 0, 65536, _FAST_ZERO) == _ENOTSUP
        assert change(client, nbd.WRITE_ZEROES, 0, 65536) == 0
        assert client.read(0, 65536) == bytes(65536)


def test_many_connections_see_each_other(path: Path, client: Client) -> None:
    def work(number: int) -> None:
        source = random.Random(number)
        with Client(path).go() as one:
            for _ in range(10):
                offset = source.randrange(2000) * 16384 + number * 1024
                assert write(one, offset, bytes([number + 1]) * 1024) == 0
                assert change(one, nbd.FLUSH, 0, 0) == 0
                with Client(path).go() as other:
                    assert other.read(offset, 1024) == bytes([number + 1]) * 1024
                    other.send(nbd.DISCONNECT, 0, 0)
                    assert other.receive(1) == b""  # or connections may pile up to more than the server takes

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert client.read(0, 1)


def test_vanishing_in_a_write(path: Path, client: Client) -> None:
    for sent in (0, 1000, 2 << 20):
        with Client(path).go() as other:
            other.send(nbd.WRITE, 8 << 20, 30 << 20)
            other.socket.sendall(bytes(sent))
    assert write(client, 0, b"still there") == 0


def test_a_client_that_takes_no_replies_is_left(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1) * (8 << 20))
    with (
        FileDevice.open(tmp_path / "disk", mapped=False) as device,
        serving(device, tmp_path / "socket", sending_seconds=0.3),
        Client(tmp_path / "socket").go(structured=False) as client,
    ):
        for _ in range(8):
            client.send(nbd.READ, 0, 8 << 20)
        time.sleep(1)
        assert len(client.receive(64 << 20)) < 32 << 20  # to the end or the reset of the connection


def test_fuzz_of_requests(path: Path, overlay: Qcow2Overlay) -> None:
    """Requests with bytes changed: the server answers the next client."""
    noise = random.Random(9)
    good = b"".join(
        struct.pack(">IHHQQI", 0x25609513, flags, command, 7, 4096, 512) + bytes(512 if command == nbd.WRITE else 0)
        for command, flags in ((nbd.WRITE, 0), (nbd.TRIM, 0), (nbd.WRITE_ZEROES, 2), (nbd.FLUSH, 0), (nbd.WRITE, 1))
    )
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 2
    count = 0
    while time.monotonic() < end:
        data = bytearray(good)
        for _ in range(noise.randint(1, 4)):
            data[noise.randrange(len(data))] = noise.choice((0, 1, 0x7F, 0x80, 0xFF, noise.randrange(256)))
        with Client(path).go() as client:
            try:
                client.socket.sendall(data)
                client.socket.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert client.ended()
        count += 1
    assert count > 20
    with Client(path).go() as client:
        assert write(client, 4096, b"still there") == 0
    assert bytes(overlay.read(4096, 11)) == b"still there"
