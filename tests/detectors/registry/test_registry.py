"""Hives of real systems, beside hivex; transaction logs; damage."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.detectors.registry import Hive
from memory_filesystem import MemoryFileSystem
from registry_hives import Load, load_hive

CLEAN = (
    "BCD",
    "SAM",
    "NTUSER.DAT",
    "ntuser_software_partial",
    "hivex-minimal",
    "hivex-special",
    "hivex-rlenvalue_test_hive",
)
Export = dict[str, list[tuple[str, int, str]]]  # path -> (name, type, data in hex)


@pytest.fixture(scope="module")
def load(shared: Path) -> Load:
    return load_hive(shared)


def _ours(hive: Hive) -> Export:
    return {
        path or "\\": sorted((one.name, one.type, one.data.hex()) for one in key.values()) for path, key in hive.walk()
    }


def _hivexs(path: Path) -> Export:
    if shutil.which("hivexregedit") is None:
        pytest.skip("needs hivexregedit")
    done = subprocess.run(["hivexregedit", "--export", path, "\\"], capture_output=True, check=True)
    text = "\n".join(map(_decoded, done.stdout.split(b"\n")))
    found: Export = {}
    for part in re.split(r"^(?=\[\\.*\]$)", text, flags=re.MULTILINE)[1:]:
        head, _, lines = part.partition("\n")
        values = []
        for name, kind, data in re.findall(r'^(@|"(?:[^"\\]|\\.)*")=(dword|hex\(\w+\)):(.*)$', lines, re.MULTILINE):
            plain = "" if name == "@" else re.sub(r"\\(.)", r"\1", name[1:-1])
            if kind == "dword":
                values.append((plain, 4, struct.pack("<I", int(data, 16)).hex()))
            else:
                values.append((plain, int(kind[4:-1], 16), data.replace(",", "")))
        found[head[1:-1]] = sorted(values)
    return found


def _decoded(line: bytes) -> str:
    """Perl writes what has only characters of Latin-1 as that, and other text as UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


@pytest.mark.parametrize("name", CLEAN)
def test_as_hivex_exports(load: Load, tmp_path: Path, name: str) -> None:
    data = load(name)
    (tmp_path / "hive").write_bytes(data)
    hive = Hive(MemoryDevice(data))
    assert hive.warnings == []
    expected = _hivexs(tmp_path / "hive")
    found = _ours(hive)
    assert found.keys() == expected.keys()
    assert {path: found[path] for path in found if found[path] != expected[path]} == {}


def test_keys_and_values(load: Load) -> None:
    hive = Hive(MemoryDevice(load("NTUSER.DAT")))
    key = hive.key(r"software\MICROSOFT\Windows\CurrentVersion\Explorer\Shell Folders")
    assert key is not None and key.name == "Shell Folders"
    value = key.value("personal")
    assert value is not None and value.type == 1 and value.text.startswith("C:\\Users\\")
    assert hive.key(r"Software\Nothing\There") is None
    assert key.value("nothing") is None
    assert key.modified_ns > 10**18  # after 2001


@pytest.mark.parametrize(("name", "writes"), [("SYSTEM_B", 24), ("UsrClass.dat", 14)])
def test_logs(load: Load, tmp_path: Path, name: str, writes: int) -> None:
    """Every entry of the logs has the right hashes, and hivex finds in the replayed hive what we do."""
    logs = [MemoryDevice(load(f"{name}.{suffix}")) for suffix in ("LOG1", "LOG2")]
    data = load(name)
    for order in (logs, logs[::-1]):
        hive = Hive(MemoryDevice(data), order)
        assert hive.warnings == [f"log replayed: {writes} writes"]
    found = _ours(hive)
    before = _ours_of_damaged(Hive(MemoryDevice(data)))
    assert found != before
    (tmp_path / "hive").write_bytes(_flushed(hive))
    expected = _hivexs(tmp_path / "hive")
    assert found.keys() == expected.keys()
    assert [path for path in found if found[path] != expected[path]] == []


def _flushed(hive: Hive) -> bytes:
    """The hive as Windows would have written it, its base block too."""
    data = bytearray(hive.device.read(0, hive.device.size))
    end = 4096
    while data[end : end + 4] == b"hbin":
        end += int.from_bytes(data[end + 8 : end + 12], "little")
    data[8:12] = data[4:8]
    data[40:44] = struct.pack("<I", end - 4096)
    return bytes(_summed(data)[:end])


def _summed(data: bytearray) -> bytearray:
    """With the checksum of the base block."""
    checksum = 0
    for (word,) in struct.iter_unpack("<I", data[:508]):
        checksum ^= word
    data[508:512] = struct.pack("<I", checksum)
    return data


def _ours_of_damaged(hive: Hive) -> Export:
    errors: list[InvalidFormat] = []
    return {
        path or "\\": sorted((one.name, one.type, one.data.hex()) for one in key.values(errors=errors))
        for path, key in hive.walk(errors=errors)
    }


def test_a_torn_log_is_replayed_up_to_the_tear(load: Load) -> None:
    data, log1, log2 = load("UsrClass.dat"), bytearray(load("UsrClass.dat.LOG1")), load("UsrClass.dat.LOG2")
    whole = Hive(MemoryDevice(data), [MemoryDevice(log1), MemoryDevice(log2)])
    sizes = [match.start() for match in re.finditer(b"HvLE", log1)]
    log1[sizes[1] + 600] ^= 1
    torn = Hive(MemoryDevice(data), [MemoryDevice(log1), MemoryDevice(log2)])
    count = [int(re.findall(r"\d+", hive.warnings[0])[0]) for hive in (whole, torn)]
    assert 0 < count[1] < count[0]


def test_without_a_log(load: Load) -> None:
    hive = Hive(MemoryDevice(load("SYSTEM_B")))
    assert hive.warnings == ["not flushed, and no log to replay"]
    assert hive.key("Select") is not None


def _old_log(hive: bytes, changed: bytes) -> bytes:
    """A log in the old format, as the specification has it, of the sectors in which `changed` differs."""
    sectors = [at for at in range(4096, len(hive), 512) if hive[at : at + 512] != changed[at : at + 512]]
    count = (len(hive) - 4096) // 512
    bits = bytearray(-(-count // 8))
    for at in sectors:
        bits[(at - 4096) // 512 // 8] |= 1 << (at - 4096) // 512 % 8
    head = changed[:512] + b"DIRT" + bytes(bits)
    head += bytes(-len(head) % 512)
    return head + b"".join(changed[at : at + 512] for at in sectors)


def test_old_log(load: Load) -> None:
    whole = load("hivex-rlenvalue_test_hive")
    base = bytearray(whole)
    base[8:12] = struct.pack("<I", struct.unpack_from("<I", base, 4)[0] - 1)  # the second sequence number is behind
    stale = bytearray(_summed(base))
    place = stale.index(b"0123456789ABCDEF", 4096)
    stale[place : place + 16] = b"before the write"
    log = _old_log(bytes(stale), bytes(base))
    hive = Hive(MemoryDevice(stale), [MemoryDevice(log)])
    assert hive.warnings == ["log replayed: 1 writes"]
    assert _ours(hive) == _ours(Hive(MemoryDevice(whole)))
    assert _ours(Hive(MemoryDevice(stale))) != _ours(hive)


def test_in_a_guest(load: Load) -> None:
    tree = MemoryFileSystem(
        {f"/config/UsrClass.dat{suffix}": load(f"UsrClass.dat{suffix}") for suffix in ("", ".LOG1", ".LOG2")}
    )
    assert Hive.open(tree, "/config/UsrClass.dat").warnings == ["log replayed: 14 writes"]
    with pytest.raises(FileNotFoundError):
        Hive.open(tree, "/config/SOFTWARE")


@pytest.mark.parametrize("length", [0, 1, 511, 4095, 4096, 4100])
def test_truncated(load: Load, length: int) -> None:
    with pytest.raises(GuestctlError):
        Hive(MemoryDevice(load("SAM")[:length]))


def test_damage_fails_alone(load: Load) -> None:
    data = bytearray(load("SAM"))
    hive = Hive(MemoryDevice(data))
    names = hive.key(r"SAM\Domains\Account\Users\Names")
    assert names is not None
    data[4096 + names.offset + 4 : 4096 + names.offset + 6] = b"xx"
    errors: list[InvalidFormat] = []
    paths = {path for path, _ in Hive(MemoryDevice(data)).walk(errors=errors)}
    assert r"\SAM\Domains\Builtin" in paths and r"\SAM\Domains\Account\Users\Names" not in paths
    assert [(error.structure, error.offset) for error in errors] == [("key node", 4096 + names.offset)]
    with pytest.raises(InvalidFormat, match="signature"):
        list(Hive(MemoryDevice(data)).walk())


def test_keys_in_a_circle(load: Load) -> None:
    data = bytearray(load("SAM"))
    top = Hive(MemoryDevice(data)).key("SAM")
    assert top is not None
    below = top.subkey("Domains")
    assert below is not None
    # The list of subkeys of the lower key becomes that of the upper one, which holds the lower key.
    data[4096 + below.offset + 4 + 28 : 4096 + below.offset + 4 + 32] = data[
        4096 + top.offset + 4 + 28 : 4096 + top.offset + 4 + 32
    ]
    with pytest.raises(InvalidFormat, match="two places"):
        list(Hive(MemoryDevice(data)).walk())


@pytest.mark.parametrize("name", ["SAM", "hivex-rlenvalue_test_hive", "BCD"])
def test_mutants(load: Load, name: str) -> None:
    original = load(name)
    chance = random.Random(0)
    seconds = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 2
    started, read = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        data = bytearray(original)
        for _ in range(chance.choice((1, 2, 8, 100))):
            data[chance.randrange(4096 if chance.random() < 0.1 else 20, len(data))] = chance.choice(
                (0, 0xFF, chance.randrange(256))
            )
        before = time.process_time()
        try:
            read += len(_ours_of_damaged(Hive(MemoryDevice(data))))
        except GuestctlError as error:
            assert str(error)
        assert time.process_time() - before < 5
    assert read > 100
