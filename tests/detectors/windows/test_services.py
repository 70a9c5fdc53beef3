"""Services of a real SYSTEM hive beside hivex's export of it."""

from __future__ import annotations

from detectors.windows.conftest import ExportHive, Load, MakeHive, number_of, system_of, text_of
from guestctl.detectors.views import view
from guestctl.detectors.windows.services import services

_TREE = r"\ControlSet001\Services"


def test_as_hivex_exports(load: Load, export_hive: ExportHive) -> None:
    hive = load("SYSTEM_B")
    exported = export_hive(hive, _TREE)
    expected = {
        path.rpartition("\\")[2]: values
        for path, values in exported.items()
        if path.count("\\") == 3 and "type" in values
    }
    found = {one.name: one for one in services(system_of({"system": hive}))}
    assert len(found) > 500 and found.keys() == expected.keys()
    for name, values in expected.items():
        one = found[name]
        assert one.command == text_of(values.get("imagepath", b"")), name
        assert one.account == text_of(values.get("objectname", b"")), name
        assert ("start" in values) == (one.start != "unknown"), name
        assert one.start.startswith("automatic") == (number_of(values.get("start", b"")) == 2), name
        assert ("driver" in one.kind) == (number_of(values["type"]) in (1, 2, 8)), name
    kinds = {name: found[name].kind for name in ("storahci", "NTFS", "BITS", "CDPUserSvc", "Spooler")}
    assert kinds == {
        "storahci": "driver",
        "NTFS": "file system driver",
        "BITS": "shared process",
        "CDPUserSvc": "user service in a shared process",
        "Spooler": "own process",  # with the bit of an interactive one
    }
    starts = {name: found[name].start for name in ("storahci", "BITS", "Dnscache", "cdfs", "NTFS")}
    assert starts == {
        "storahci": "boot",
        "BITS": "automatic (delayed)",
        "Dnscache": "automatic",
        "cdfs": "disabled",
        "NTFS": "manual",
    }
    assert found["storahci"].display_name == "Microsoft Standard SATA AHCI Driver"
    assert found["BITS"].source == r"HKLM\SYSTEM\ControlSet001\Services\BITS"


def test_unknown_numbers(make_hive: MakeHive) -> None:
    hive = make_hive(
        '[ControlSet001\\Services\\Odd]\n"Type"=dword:00000003\n"Start"=dword:00000009\n'
        "[ControlSet001\\Services\\NoService]\n"
    )
    (one,) = view("services", system_of({"system": hive}))
    assert (one.name, one.kind, one.start) == ("Odd", "type 0x3", "start 0x9")


def test_without_a_hive() -> None:
    assert services(system_of({})) == []
