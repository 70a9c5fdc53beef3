"""What the protocol says of single options and requests, and clients that break it."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import nbd_client as nbd
from guestctl.block import BlockDevice, FileDevice, MemoryDevice
from guestctl.block.device import Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.nbd import server as nbd_server
from nbd_client import Client, content_of, meta_query, serving

_SIZE = 40 << 20
_HOLE = range(8 << 20, 24 << 20)
_EPERM, _EIO, _EINVAL, _EOVERFLOW = 1, 5, 22, 75


@pytest.fixture(scope="module")
def content() -> bytes:
    noise = random.Random(5).randbytes(_SIZE)
    return noise[: _HOLE.start] + bytes(len(_HOLE)) + noise[_HOLE.stop :]


@pytest.fixture(scope="module")
def device(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockDevice]:
    path = tmp_path_factory.mktemp("file") / "file"
    with path.open("wb") as file:
        file.write(content[: _HOLE.start])
        file.seek(_HOLE.stop)
        file.write(content[_HOLE.stop :])
    with FileDevice.open(path) as device:
        yield device


@pytest.fixture
def path(device: BlockDevice, tmp_path: Path) -> Iterator[Path]:
    with serving(device, tmp_path / "socket", export="disk"):
        yield tmp_path / "socket"


class _Damaged(MappedDevice):
    """One page that cannot be read, in memory that can."""

    def __init__(self, content: bytes, page: int) -> None:
        self._below = MemoryDevice(content)
        self.size = len(content)
        self._page = page

    def extent(self, offset: int) -> Extent:
        start = offset // 4096 * 4096
        if start == self._page:
            return Extent(start, 4096, self, start)
        return Extent(start, 4096, self._below, start)

    def compute(self, offset: int, length: int) -> Buffer:
        raise InvalidFormat("it is damaged", structure="page", offset=offset)


# What is right


def test_read(path: Path, content: bytes) -> None:
    with Client(path).go() as client:
        ranges = [(0, 1), (5, 100_000), (_HOLE.start - 100, 300), (_HOLE.start, 65536), (_HOLE.stop - 1, 2)]
        ranges += [(0, 32 << 20), (8 << 20, 32 << 20), (_SIZE - 70_001, 70_001)]
        for offset, length in ranges:
            assert client.read(offset, length) == content[offset : offset + length]
        assert client.read(0, 1 << 20, flags=nbd.DONT_FRAGMENT) == content[: 1 << 20]
        client.send(nbd.READ, _HOLE.start, 1 << 20)
        assert client.chunks() == [(2, struct.pack(">QI", _HOLE.start, 1 << 20))]
        client.send(nbd.READ, _HOLE.start - 4096, 8192, flags=nbd.DONT_FRAGMENT)
        assert [kind for kind, _ in client.chunks()] == [1]


def test_read_with_simple_replies(path: Path, content: bytes) -> None:
    with Client(path).go(structured=False) as client:
        for offset, length in ((0, 1), (5, 100_000), (1 << 20, 32 << 20), (_HOLE.start, 4096)):
            client.send(nbd.READ, offset, length)
            assert client.simple_reply() == 0
            assert client.receive(length) == content[offset : offset + length]
        client.send(nbd.READ, _SIZE, 1)
        assert client.simple_reply() == _EINVAL
        client.send(nbd.BLOCK_STATUS, 0, 512)
        assert client.simple_reply() == _EINVAL


def test_export_name(path: Path, content: bytes) -> None:
    for flags, zeroes in ((0, 124), (3, 0)):
        with Client(path, flags) as client:
            client.socket.sendall(struct.pack(">QII", 0x49484156454F5054, nbd.EXPORT_NAME, 4) + b"disk")
            assert client.receive(10 + zeroes) == struct.pack(">QH", _SIZE, 0b101_0000_0011) + bytes(zeroes)
            client.send(nbd.READ, 10, 3)
            assert client.simple_reply() == 0 and client.receive(3) == content[10:13]


def test_options(path: Path) -> None:
    with Client(path) as client:
        assert client.option(nbd.LIST) == [(2, b"\0\0\0\4disk"), (nbd.ACK, b"")]
        assert client.option(nbd.STARTTLS)[0][0] == 1 << 31 | 2
        assert client.option(4711) == [(1 << 31 | 1, b"")]
        assert client.option(nbd.SET_META_CONTEXT, meta_query(b"", b"base:allocation"))[0][0] == 1 << 31 | 3
        assert client.option(nbd.STRUCTURED_REPLY) == [(nbd.ACK, b"")]
        contexts = [(4, bytes(4) + b"base:allocation"), (nbd.ACK, b"")]
        for queries in ((), (b"base:",), (b"x:y", b"base:allocation")):
            assert client.option(nbd.LIST_META_CONTEXT, meta_query(b"disk", *queries)) == contexts
        assert client.option(nbd.LIST_META_CONTEXT, meta_query(b"", b"qemu:")) == [(nbd.ACK, b"")]
        for queries in ((), (b"base:",), (b"x:y",)):
            assert client.option(nbd.SET_META_CONTEXT, meta_query(b"disk", *queries)) == [(nbd.ACK, b"")]
        for option in (nbd.INFO, nbd.GO):
            assert client.option(option, b"\0\0\0\5other\0\0")[0][0] == 1 << 31 | 6
        infos = client.option(nbd.INFO, struct.pack(">I4sHHH", 4, b"disk", 2, 1, 3))
        flags = 0b101_1000_0011
        assert infos[:2] == [(3, struct.pack(">HQH", 0, _SIZE, flags)), (3, b"\0\1disk")]
        assert infos[2:] == [(3, struct.pack(">HIII", 3, 1, 4096, 32 << 20)), (nbd.ACK, b"")]
        assert client.option(nbd.ABORT) == [(nbd.ACK, b"")]
        assert client.ended()


def test_block_status(path: Path) -> None:
    with Client(path).go() as client:
        client.send(nbd.BLOCK_STATUS, 1 << 20, 30 << 20)
        states = ((_HOLE.start - (1 << 20), 0), (len(_HOLE), 3), ((31 << 20) - _HOLE.stop, 0))
        payload = struct.pack(">I", 1) + b"".join(struct.pack(">II", *state) for state in states)
        assert client.chunks() == [(5, payload)]
        client.send(nbd.BLOCK_STATUS, 1 << 20, 30 << 20, flags=nbd.REQ_ONE)
        assert client.chunks() == [(5, payload[:12])]


def test_requests_that_fail(path: Path, content: bytes) -> None:
    with Client(path).go() as client:
        for command in (nbd.WRITE, nbd.TRIM, nbd.WRITE_ZEROES, 8):
            client.send(command, 0, 100_000)
            if command == nbd.WRITE:
                client.socket.sendall(bytes(100_000))
            assert client.simple_reply() == _EPERM
        for command in (nbd.FLUSH, 99, 65535):
            client.send(command, 0, 512)
            assert client.simple_reply() == _EINVAL
        for offset, length in ((_SIZE, 1), (_SIZE - 1, 2), (2**64 - 1, 2**32 - 1), (0, 0)):
            assert client.read(offset, length) == _EINVAL
            client.send(nbd.BLOCK_STATUS, offset, length)
            assert [kind for kind, _ in client.chunks()] == [1 << 15 | 1]
            client.send(nbd.CACHE, offset, length)
            assert client.simple_reply() == _EINVAL
        assert client.read(0, (32 << 20) + 1) == _EINVAL
        assert client.read(0, 32 << 20, flags=nbd.DONT_FRAGMENT) == _EOVERFLOW
        assert client.read(0, 512, flags=1 << 9) == _EINVAL
        client.send(nbd.CACHE, 0, _SIZE)
        assert client.simple_reply() == 0
        assert client.read(77, 10) == content[77:87]


def test_damage_fails_its_requests_alone(content: bytes, tmp_path: Path) -> None:
    page = (2 << 20) + 4096
    with serving(_Damaged(content[: 4 << 20], page), tmp_path / "socket"):
        with Client(tmp_path / "socket").go() as client:
            assert client.read(page, 1) == client.read(page - 1, 2) == client.read(0, 4 << 20) == _EIO
            assert client.read(0, page) == content[:page]
            assert client.read(page + 4096, 8192) == content[page + 4096 :][:8192]
        with Client(tmp_path / "socket").go(structured=False) as client:
            for offset, length in ((page, 1), (0, 4 << 20)):
                client.send(nbd.READ, offset, length)
                assert client.simple_reply() == _EIO
            client.send(nbd.READ, 0, 16)
            assert client.simple_reply() == 0 and client.receive(16) == content[:16]


def test_damage_makes_the_status_unknown(content: bytes, tmp_path: Path) -> None:
    class Unmapped(_Damaged):
        def extent(self, offset: int) -> Extent:
            if offset // 4096 * 4096 == self._page:
                raise InvalidFormat("it is damaged", structure="extent", offset=offset)
            return super().extent(offset)

    page = 1 << 20
    with (
        serving(Unmapped(content[: 4 << 20], page), tmp_path / "socket"),
        Client(tmp_path / "socket").go() as client,
    ):
        for offset in (0, page, page + 4096):
            length = (4 << 20) - offset
            client.send(nbd.BLOCK_STATUS, offset, length)
            assert client.chunks() == [(5, struct.pack(">III", 1, length, 0))]
        assert client.read(page - 4096, 4097) == _EIO
        assert client.read(page - 4096, 4096) == content[page - 4096 : page]


def test_a_file_that_shrinks(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content[: 4 << 20])
    with FileDevice.open(file, mapped=False) as device, serving(device, tmp_path / "socket"):
        os.truncate(file, 1_000_000)
        with Client(tmp_path / "socket").go() as client:
            assert client.read(900_000, 200_000) == client.read(2_000_000, 100_000) == _EIO
            assert client.read(0, 1_000_000) == content[:1_000_000]


def test_64_connections(path: Path, content: bytes) -> None:
    ready = threading.Barrier(64)

    def work(number: int) -> bool:
        noise = random.Random(number)
        with Client(path).go(structured=number % 4 > 0) as client:
            ready.wait(20)
            for _ in range(10):
                length = noise.randrange(1, 300_000)
                offset = noise.randrange(_SIZE - length)
                client.send(nbd.READ, offset, length)
                if number % 4 == 0:
                    assert client.simple_reply() == 0 and client.receive(length) == content[offset : offset + length]
                    continue
                assert content_of(client.chunks()) == content[offset : offset + length]
        return True

    with ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(work, range(64))) == 64


# What is broken


_GO = struct.pack(">QIIIH", 0x49484156454F5054, nbd.GO, 6, 0, 0)
_BROKEN = {
    "garbage": b"GET / HTTP/1.0\r\n\r\n" * 20,
    "unknown client flags": struct.pack(">I", 1 << 17),
    "an option that is no option": struct.pack(">I", 3) + b"x" * 16,
    "an option of 4 GiB": struct.pack(">IQII", 3, 0x49484156454F5054, nbd.LIST, 0xFFFFFFFF),
    "an option flood": struct.pack(">I", 3) + struct.pack(">QII", 0x49484156454F5054, nbd.LIST, 0) * 1000,
    "options of a client that knows none": struct.pack(">IQII", 0, 0x49484156454F5054, nbd.LIST, 0),
    "another export's name": struct.pack(">IQII", 3, 0x49484156454F5054, nbd.EXPORT_NAME, 1) + b"x",
    "requests that are no requests": struct.pack(">I", 3) + _GO + b"y" * 280,
    "a write of 4 GiB": struct.pack(">I", 3) + _GO + struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 0xFFFFFFFF),
}


@pytest.mark.parametrize("data", _BROKEN.values(), ids=_BROKEN)
def test_broken_clients_are_left(path: Path, content: bytes, data: bytes) -> None:
    with Client(path).go() as other:
        with Client(path, None) as client:
            try:
                client.socket.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert client.ended()
        assert other.read(0, 4096) == content[:4096]


def test_half_options_are_invalid(path: Path) -> None:
    with Client(path) as client:
        client.option(nbd.STRUCTURED_REPLY)
        for option in (nbd.INFO, nbd.GO, nbd.LIST_META_CONTEXT, nbd.SET_META_CONTEXT):
            for data in (
                b"",
                b"\0\0\0",
                b"\xff" * 4,
                b"\0\0\0\4disk",
                b"\0\0\0\0\xff\xff\xff\xff",
                b"\0\0\0\0" + b"\0" * 9,
            ):
                assert client.option(option, data)[0][0] == 1 << 31 | 3
        for option in (nbd.LIST, nbd.STRUCTURED_REPLY):
            assert client.option(option, b"x")[0][0] == 1 << 31 | 3


def test_a_negotiation_has_its_time(device: BlockDevice, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(device, path, negotiation_seconds=0.5), Client(path).go() as other:
        started = time.monotonic()
        with Client(path, None) as silent, Client(path) as dripping:
            dripping.socket.sendall(b"IHA")
            assert silent.ended() and dripping.ended()
        assert time.monotonic() - started < 10
        assert other.read(5, 5) == content[5:10]  # which may wait as long as it likes


def test_vanishing_in_the_middle(path: Path, content: bytes) -> None:
    with Client(path).go() as other:
        for sent in (b"", b"\x25", struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 1 << 20) + bytes(1000)):
            with Client(path).go() as client:
                client.socket.sendall(sent)
        for _ in range(5):
            with Client(path).go() as client:
                for _ in range(20):
                    client.send(nbd.READ, 0, 8 << 20)
        assert other.read(0, 4096) == content[:4096]


def test_slow_readers_cost_little_memory(path: Path, content: bytes) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    before = resident()
    slow = [Client(path).go(structured=number % 2 > 0) for number in range(20)]
    for client in slow:
        client.socket.setblocking(False)
        try:
            while True:
                client.send(nbd.READ, 0, 32 << 20)
        except BlockingIOError:
            pass  # it takes no more requests: that is what is wanted
    time.sleep(0.5)
    assert resident() - before < 20 * (4 << 20)
    with Client(path).go() as other:
        assert other.read(0, 32 << 20) == content[: 32 << 20]
    for client in slow:
        client.close()


def test_too_many_connections(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_server, "MAX_CONNECTIONS", 3)
    clients = [Client(path) for _ in range(3)]
    with socket.socket(socket.AF_UNIX) as one_more:
        one_more.settimeout(20)
        one_more.connect(str(path))
        assert one_more.recv(1) == b""
    clients.pop().close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            clients.append(Client(path))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    assert len(clients) == 3
    for client in clients:
        client.close()


def test_closing_sends_what_is_owed(device: BlockDevice, content: bytes, tmp_path: Path) -> None:
    with serving(device, tmp_path / "socket"):
        client = Client(tmp_path / "socket").go()
        idle = Client(tmp_path / "socket")
        client.send(nbd.READ, 0, 32 << 20)
        client.socket.recv(1, socket.MSG_PEEK)
        reader = ThreadPoolExecutor(1)
        chunks = reader.submit(client.chunks)
    assert content_of(chunks.result()) == content[: 32 << 20]
    assert client.ended() and idle.ended()
    assert not (tmp_path / "socket").exists()
    reader.shutdown()
    client.close()
    idle.close()


def test_fuzz_of_the_negotiation(path: Path, content: bytes) -> None:
    """Bytes changed, left out or repeated; the server answers the next client as before."""
    noise = random.Random(9)
    header = ">QII"
    magic = 0x49484156454F5054
    query = meta_query(b"disk", b"base:allocation", b"base:")
    good = struct.pack(">I", 3)
    good += struct.pack(header, magic, nbd.STRUCTURED_REPLY, 0)
    for option in (nbd.LIST_META_CONTEXT, nbd.SET_META_CONTEXT):
        good += struct.pack(header, magic, option, len(query)) + query
    good += struct.pack(header, magic, nbd.INFO, 10) + struct.pack(">I4sH", 4, b"disk", 0) + _GO
    good += struct.pack(">IHHQQI", 0x25609513, 0, nbd.READ, 7, 0, 512)
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    count = 0
    while time.monotonic() < end:
        data = bytearray(good)
        for _ in range(noise.randint(1, 4)):
            at = noise.randrange(len(data))
            change = noise.randrange(4)
            if change == 0:
                del data[at : at + noise.randint(1, 8)]
            elif change == 1:
                data[at:at] = data[at : at + noise.randint(1, 20)]
            else:
                data[at] = noise.choice((0, 1, 0x7F, 0x80, 0xFF, noise.randrange(256)))
        with Client(path, None) as client:
            try:
                client.socket.sendall(data)
                client.socket.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert client.ended()
        count += 1
    assert count > 20
    with Client(path).go() as client:
        assert client.read(0, 4096) == content[:4096]
