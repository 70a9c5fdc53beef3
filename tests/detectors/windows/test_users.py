"""Accounts of a real SAM hive, beside what its keys are called and hivex's export of them; damage."""

from __future__ import annotations

import random
import struct

import pytest

from detectors.windows.conftest import ExportHive, Load, MakeHive, system_of
from guestctl.core.errors import GuestctlError
from guestctl.detectors.windows.users import machine_sid, sids, users

_ACCOUNT = r"\SAM\Domains\Account"


def test_real_hive(load: Load, export_hive: ExportHive) -> None:
    hive = load("SAM")
    exported = export_hive(hive, r"\SAM")
    # Windows has the same facts in other places: names as keys, memberships as a list below each identifier.
    names = {path.rpartition("\\")[2] for path in exported if path.startswith(rf"{_ACCOUNT}\Users\Names" + "\\")}
    system = system_of({"SAM": hive})
    found = {one.name: one for one in users(system)}
    assert found.keys() == names == {"Administrator", "Guest", "Preston"}
    sid = machine_sid(system)
    members = rf"\SAM\Domains\Builtin\Aliases\Members\{sid}"
    assert members in exported
    aliases = {0x220: "Administrators", 0x221: "Users", 0x222: "Guests"}
    for one in found.values():
        assert one.sid == f"{sid}-{one.uid}"
        listed = struct.iter_unpack("<I", exported[rf"{members}\{one.uid:08X}"][""])
        assert sorted(one.groups) == sorted(aliases[rid] for (rid,) in listed)
    administrator, guest, preston = (found[name] for name in ("Administrator", "Guest", "Preston"))
    assert (administrator.uid, administrator.gid, administrator.disabled) == (500, 513, True)
    assert administrator.flags == ["password never expires"]
    assert administrator.comment == "Built-in account for administering the computer/domain"
    assert guest.flags == ["password not required", "password never expires"] and guest.password == "empty"
    assert guest.last_login_ns is None
    assert (preston.password, preston.disabled, preston.flags) == ("set", False, [])
    ticks = struct.unpack_from("<Q", exported[rf"{_ACCOUNT}\Users\000003E8"]["f"], 8)[0]
    assert preston.last_login_ns == (ticks - 116_444_736_000_000_000) * 100


def test_profile(load: Load, make_hive: MakeHive) -> None:
    system = system_of({"SAM": load("SAM")})
    sid = machine_sid(system)
    profiles = r"Microsoft\Windows NT\CurrentVersion\ProfileList"
    software = make_hive(f'[{profiles}\\{sid}-1000]\n"ProfileImagePath"="C:\\\\Users\\\\Preston"\n')
    homes = {one.name: one.home for one in users(system_of({"SAM": load("SAM"), "software": software}))}
    assert homes == {"Administrator": "", "Guest": "", "Preston": r"C:\Users\Preston"}


def test_without_a_hive() -> None:
    assert users(system_of({})) == []


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (bytes.fromhex("010200000000000520000000 20020000"), ["S-1-5-32-544"]),  # [MS-DTYP]: BUILTIN_ADMINISTRATORS
        (bytes.fromhex("010100000000000100000000") * 2, ["S-1-1-0"] * 2),  # EVERYONE
        (bytes.fromhex("0102000000000005200000"), []),
        (bytes.fromhex("0210000000000005") + bytes(64), []),
    ],
)
def test_sids(data: bytes, texts: list[str]) -> None:
    assert list(sids(data)) == texts


def test_damage_fails_alone(load: Load) -> None:
    data = bytearray(load("SAM"))
    place = data.index("Preston".encode("utf-16-le"), data.index(b"\xe8\x03\x00\x00\x01\x02\x00\x00"))
    table = place - 0xBC - 0xCC  # its name is the second item
    struct.pack_into("<I", data, table + 16, 0xFFFFFFF0)
    system = system_of({"SAM": bytes(data)})
    assert [one.name for one in users(system)] == ["Administrator", "Guest"]
    assert len(system.warnings) == 1 and "item 1 ends" in system.warnings[0]


def test_mutants(load: Load) -> None:
    whole = load("SAM")
    read = 0
    for seed in range(150):
        data, chance = bytearray(whole), random.Random(seed)
        for _ in range(20):
            data[chance.randrange(4096, 40960)] = chance.randrange(256)
        try:
            read += len(users(system_of({"SAM": bytes(data)})))
        except GuestctlError as error:
            assert str(error)
    assert read > 100
