"""Hives that were changed, beside the same changes by hivexsh, and read by hivex."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.detectors.registry import Hive
from guestctl.detectors.registry.editor import HiveEditor
from guestctl.detectors.registry.log import checksum
from guestctl.detectors.registry.reg_file import Change, decode_reg, parse_reg
from registry_hives import Load, load_hive

Run = Callable[..., str]

_REG = r"""Windows Registry Editor Version 5.00

; a comment
[HKLM\X\One]
"text"="a \"quoted\" back\\slash"
@="default"
"number"=dword:0000002a
"few"=hex:01,02,\
  03
"several"=hex(7):61,00,00,00,62,00,00,00,00,00

[HKLM\X\One\Two]

[HKLM\X\One\Two\Three]
"string"=hex(1):41,00,00,00
"empty"=hex(3):

[HKLM\X\Gone]

[-HKLM\X\Gone]

[HKLM\X\One]
"number"=-
"never"=-
"text"="changed"
"""


@pytest.fixture(scope="module")
def load(shared: Path) -> Load:
    return load_hive(shared)


def _editor(raw: bytes) -> HiveEditor:
    return HiveEditor(Hive(MemoryDevice(raw)))


def _export(hive: Hive) -> dict[str, dict[str, tuple[int, bytes]]]:
    return {path: {one.name: (one.type, one.data) for one in key.values()} for path, key in hive.walk()}


def _hivexregedit(path: Path, key: str = "\\") -> list[str]:
    """The hive as hivex reads it: a text for each key, in the order of their names. It writes Latin-1 as it is."""
    done = subprocess.run(["hivexregedit", "--export", path, key], capture_output=True, check=True)
    return sorted(re.split(r"\n(?=\[)", done.stdout.decode("latin-1")))[1:]


def test_import_beside_hivexregedit(run: Run, load: Load, tmp_path: Path) -> None:
    for name in ("hivex-minimal", "NTUSER.DAT", "hivex-special"):
        ours, theirs, reg = tmp_path / f"{name}.ours", tmp_path / f"{name}.theirs", tmp_path / "changes.reg"
        reg.write_text(_REG, "utf-8")
        theirs.write_bytes(load(name))
        editor = _editor(load(name))
        editor.apply(parse_reg(decode_reg(_REG.encode("utf-16"))), r"HKLM\X")
        ours.write_bytes(editor.to_bytes())
        run("hivexregedit", "--merge", "--prefix", r"HKLM\X", theirs, reg)
        assert _hivexregedit(ours) == _hivexregedit(theirs)
        assert _export(Hive(MemoryDevice(ours.read_bytes()))) == _export(Hive(MemoryDevice(theirs.read_bytes())))


def test_same_changes_by_hivexsh(run: Run, load: Load, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.write_bytes(load("NTUSER.DAT"))
    script = (
        "cd \\\nadd New\ncd New\nsetval 3\none\nstring:text\ntwo\ndword:258\n@\nexpandstring:%x%\nadd Below\ncd \\\n"
    )
    run("hivexsh", "-w", theirs, input=f"{script}cd \\Software\ndel\ncommit\n")
    editor = _editor(load("NTUSER.DAT"))
    editor.create_key(r"New\Below")
    editor.set_value("New", "one", 1, "text\0".encode("utf-16-le"))
    editor.set_value("New", "two", 4, (258).to_bytes(4, "little"))
    editor.set_value("New", "", 2, "%x%\0".encode("utf-16-le"))
    editor.delete_key("Software")
    ours.write_bytes(editor.to_bytes())
    assert _hivexregedit(ours) == _hivexregedit(theirs)


@pytest.mark.parametrize("name", ["hivex-minimal", "NTUSER.DAT", "SAM"])
def test_random_changes(run: Run, load: Load, tmp_path: Path, name: str) -> None:
    """Keys and values of every size, set and deleted: a dict is changed likewise, and hivex reads the result."""
    chance = random.Random(5)
    editor = _editor(load(name))
    expected = _export(Hive(MemoryDevice(load(name))))
    for number in range(400):
        path = chance.choice(list(expected))
        action = chance.random()
        if action < 0.35:
            path += f"\\Key {chance.randrange(1000)}" + "ä€"[: chance.randrange(3)]
            editor.create_key(path)
            expected.setdefault(_same(expected, path), {})
        elif action < 0.9:
            value = f"value {chance.randrange(8)}" if number % 9 else ""
            data = chance.randbytes(chance.choice((0, 1, 4, 5, 100, 5000, 16344, 16345, 40000)))
            editor.set_value(path, value, 3, data)
            expected[path][value] = (3, data)
        elif expected[path] and action < 0.95:
            value = chance.choice(list(expected[path]))
            editor.delete_value(path, value)
            del expected[path][value]
        elif path.count("\\") > 1:
            editor.delete_key(path)
            expected = {
                one: values for one, values in expected.items() if one != path and not one.startswith(path + "\\")
            }
    found = _export(Hive(MemoryDevice(editor.to_bytes())))
    assert found == expected
    result = tmp_path / "hive"
    result.write_bytes(editor.to_bytes())
    assert len(_hivexregedit(result)) == len(expected)
    # An edited hive can be edited again, and what was freed is used again.
    again = _editor(editor.to_bytes())
    for path in [one for one in expected if one.count("\\") == 1]:
        again.delete_key(path)
    before = len(again.to_bytes())
    again.create_key("x")
    again.set_value("x", "y", 3, bytes(10000))
    assert len(again.to_bytes()) == before


def _same(expected: dict[str, dict[str, tuple[int, bytes]]], path: str) -> str:
    return next((one for one in expected if one.casefold() == path.casefold()), path)


def test_logs_are_not_replayed_again(load: Load) -> None:
    logs = [MemoryDevice(load(f"SYSTEM_B.LOG{number}")) for number in (1, 2)]
    dirty = Hive(MemoryDevice(load("SYSTEM_B")), logs)
    editor = HiveEditor(dirty)
    editor.create_key("Added")
    clean = Hive(MemoryDevice(editor.to_bytes()), logs)
    assert clean.warnings == [] and clean.key("Added") is not None
    assert len(list(clean.walk())) == len(list(dirty.walk())) + 1
    # Whoever replays logs in spite of that finds none that follows on the hive's number.
    torn = bytearray(editor.to_bytes())
    torn[4:8] = (int.from_bytes(torn[4:8], "little") + 1).to_bytes(4, "little")
    torn[508:512] = checksum(bytes(torn[:4096])).to_bytes(4, "little")
    assert Hive(MemoryDevice(bytes(torn)), logs).key("Added") is not None


def test_many_subkeys_get_an_index_root(run: Run, load: Load, tmp_path: Path) -> None:
    editor = _editor(load("hivex-minimal"))
    for number in range(1200):
        editor.create_key(f"k{number}")
    result = tmp_path / "hive"
    result.write_bytes(editor.to_bytes())
    assert len(_hivexregedit(result)) == 1201
    for number in range(1200):
        editor.delete_key(f"k{number}")
    assert len(list(Hive(MemoryDevice(editor.to_bytes())).walk())) == 1


def test_what_is_refused(load: Load) -> None:
    editor = _editor(load("hivex-minimal"))
    with pytest.raises(FileNotFoundError):
        editor.set_value("none", "x", 1, b"")
    with pytest.raises(FileNotFoundError):
        editor.delete_value("", "none")
    with pytest.raises(FileNotFoundError):
        editor.delete_key("none")
    with pytest.raises(UnsupportedFeature, match="root key"):
        editor.delete_key("\\")
    with pytest.raises(UnsupportedFeature, match="a name of 256 characters"):
        editor.create_key("x" * 256)
    with pytest.raises(UnsupportedFeature, match="is not below"):
        editor.apply([Change(r"HKLM\Y\z")], r"HKLM\X")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no header", "line of a .reg file at offset 0x1: the first line is none of regedit's"),
        ("REGEDIT4\n[open", "a key without a closing bracket"),
        ("REGEDIT4\n@=-", "a value without a key"),
        ("REGEDIT4\n[a]\nnothing", "neither a key nor a value"),
        ('REGEDIT4\n[a]\n"x"=word:1', "data of no known kind"),
        ('REGEDIT4\n[a]\n"x"=hex:1,123', "bytes that are none"),
        ('REGEDIT4\n[a]\n"x"=hex:' + "a" * 100, "bytes that are none"),  # in no time
    ],
)
def test_files_of_regedit_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InvalidFormat, match=re.escape(message)):
        list(parse_reg(text))


@pytest.mark.parametrize("raw", [b"\xff\xfeR", b"REGEDIT4\n[\xe9]"])
def test_text_of_no_known_encoding(raw: bytes) -> None:
    with pytest.raises(InvalidFormat, match="is not what it has"):
        decode_reg(raw)


def test_texts_of_a_code_page() -> None:
    """REGEDIT4 has one byte for a character of REG_EXPAND_SZ; what is no ASCII depends on where it was written."""
    change = list(parse_reg('REGEDIT4\n[a]\n"x"=hex(2):25,61,25,00'))[1]
    assert change.data == "%a%\0".encode("utf-16-le")
    with pytest.raises(UnsupportedFeature, match="a code page in line 3"):
        list(parse_reg('REGEDIT4\n[a]\n"x"=hex(2):e9,00'))


def test_many_keys_and_values_of_one_key(load: Load) -> None:
    """Each costs the same, however many there are."""
    editor = _editor(load("hivex-minimal"))
    before = time.process_time()
    changes = [Change(f"a\\{number}") for number in range(20_000)]
    editor.apply([*changes, *(Change("a", False, str(number), 4, bytes(4)) for number in range(2_000))])
    editor.apply([Change(f"a\\{number}", True) for number in range(0, 20_000, 2)])
    found = Hive(MemoryDevice(editor.to_bytes())).key("a")
    assert found is not None
    assert {key.name for key in found.subkeys()} == {str(number) for number in range(1, 20_000, 2)}
    assert len(list(found.values())) == 2_000
    assert time.process_time() - before < 20


def test_what_a_key_shows_is_up_to_date(load: Load) -> None:
    editor = _editor(load("hivex-minimal"))
    editor.create_key(r"a\b\c")
    for key in (editor.create_key("a"), editor.key("a"), editor.root.subkey("a")):
        assert key is not None
        assert [(one.name, [below.name for below in one.subkeys()]) for one in key.subkeys()] == [("b", ["c"])]


def test_names_are_compared_unit_by_unit(load: Load) -> None:
    """Windows knows no letter whose upper case is two; and it hashes UTF-16 code units (37 times, plus the next)."""
    editor = _editor(load("hivex-minimal"))
    for name in ("ß", "ss", "\U0001f600"):
        editor.create_key(name)
    raw = editor.to_bytes()
    place = raw.rindex(b"lh\3\0") + 4
    hashes = {int.from_bytes(raw[at + 4 : at + 8], "little") for at in range(place, place + 24, 8)}
    assert hashes == {0xDF, ord("S") * 37 + ord("S"), 0xD83D * 37 + 0xDE00}
    with pytest.raises(UnsupportedFeature, match="a name of 200 characters"):
        editor.create_key("\U0001f600" * 200)  # 400 units


def test_keys_are_no_deeper_than_what_is_read(load: Load) -> None:
    editor = _editor(load("hivex-minimal"))
    editor.create_key("\\".join(["k"] * 512))
    assert len(list(Hive(MemoryDevice(editor.to_bytes())).walk())) == 513
    with pytest.raises(UnsupportedFeature, match="513 keys one below the other"):
        editor.create_key("\\".join(["k"] * 513))


def test_sizes_of_the_largest(load: Load) -> None:
    """Of all data that there were, and not of their lower 16 bits; flags beside the longest name stay."""
    editor = _editor(load("hivex-minimal"))
    key = editor.create_key("a")
    place = 4096 + key.offset + 4
    editor._cells.buffer[place + 54] = 0x5A
    editor.create_key(r"a\long name")
    editor.set_value("a", "big", 3, bytes(1 << 17))
    editor.set_value("a", "small", 3, bytes(5))
    raw = editor.to_bytes()
    assert int.from_bytes(raw[place + 64 : place + 68], "little") == 1 << 17
    assert raw[place + 52 : place + 56] == b"\x12\0\x5a\0"


def test_a_cell_inside_a_free_one(load: Load) -> None:
    """What is said to be in use in the middle of what is free cannot be freed a second time."""
    raw = bytearray(load("hivex-minimal"))
    editor = _editor(bytes(raw))
    place = editor.create_key("a").offset
    inside = max(editor._cells._free)[1] + 64
    editor._cells.buffer[4096 + inside : 4096 + inside + 4] = (-16).to_bytes(4, "little", signed=True)
    editor._cells.write(place, 48, inside.to_bytes(4, "little"))  # the class name
    with pytest.raises(InvalidFormat, match="there is no cell in use"):
        _editor(editor.to_bytes()).delete_key("a")


def test_a_hive_in_a_large_file(load: Load) -> None:
    """What is behind the hive bins does not count."""

    class Large(BlockDevice):
        size = 1 << 50

        def read(self, offset: int, length: int) -> bytes:
            assert length < 1 << 30
            return raw[offset : offset + length].ljust(length, b"\0")

    raw = load("hivex-minimal")
    editor = HiveEditor(Hive(Large()))
    editor.create_key("a")
    assert len(editor.to_bytes()) <= len(raw) + 4096


def test_a_key_below_two_others(load: Load) -> None:
    """Its cell is another's by the time that it is deleted a second time."""
    editor = _editor(load("hivex-minimal"))
    editor.create_key(r"a\x")
    editor.create_key("b")
    first, second = editor.key("a"), editor.key("b")
    assert first is not None and second is not None
    lists = editor._cells.read(first.offset, 32, "key node")
    editor._cells.write(second.offset, 20, lists[20:24])
    editor._cells.write(second.offset, 28, lists[28:32])
    editor = _editor(editor.to_bytes())
    editor.set_value(r"b\x", "v", 4, bytes(4))
    editor.delete_key(r"a\x")
    editor.create_key(r"a\n")
    editor.delete_key(r"b\x")
    with pytest.raises(InvalidFormat, match="there is no cell in use"):
        editor.delete_key(r"a\n")


def test_damaged_hives(load: Load) -> None:
    """One byte after the other: an edit works, or it says what is wrong."""
    good = load("hivex-minimal")
    chance = random.Random(1)
    for _ in range(1500):
        raw = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            editor = _editor(bytes(raw))
            editor.create_key(r"a\b")
            editor.set_value("a", "x", 3, bytes(20000))
            editor.delete_key("a")
            editor.to_bytes()
        except (GuestctlError, FileNotFoundError):
            continue


def test_command(run: Run, load: Load, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hive").write_bytes(load("hivex-minimal"))
    image, out, reg = tmp_path / "image", tmp_path / "out", tmp_path / "x.reg"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, image)
    reg.write_text('REGEDIT4\n\n[HKLM\\X\\New]\n"v"="text"\n')
    argv = [sys.executable, "-m", "guestctl", "registry", str(image), "/hive"]
    edit = [*argv, "--import", str(reg), "--prefix", "HKLM\\X"]
    subprocess.run([*edit, "-o", str(out)], check=True)
    assert '"v"="text"' in _decoded(_hivexregedit(out, "\\New")[0])
    assert subprocess.run([*edit, "-o", str(out)], capture_output=True).returncode == 1  # it is there
    assert subprocess.run(edit, capture_output=True).returncode == 2


def _decoded(export: str) -> str:
    """hivexregedit writes strings as numbers."""
    match = re.search(r'"v"=hex\(1\):([0-9a-f,]+)', export)
    assert match is not None, export
    text = io.BytesIO(bytes(int(one, 16) for one in match[1].split(","))).getvalue().decode("utf-16-le").rstrip("\0")
    return f'"v"="{text}"'
