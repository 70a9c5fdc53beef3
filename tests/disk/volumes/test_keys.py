"""Keys in the syntax of libguestfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestctl.disk.volumes.keys import Key, Keys, parse_key


def test_syntax(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file\n")
    assert parse_key("/dev/sda2:key:se:cret") == Key("/dev/sda2", b"se:cret")
    assert parse_key(f"all:file:{tmp_path / 'file'}") == Key("all", b"from a file\n")
    for text in ("", "secret", ":key:secret", "all:secret"):
        with pytest.raises(ValueError, match="expected"):
            parse_key(text)


def test_a_key_is_not_shown() -> None:
    assert "hunter2" not in repr(Key("all", b"hunter2"))


def test_order_and_question() -> None:
    asked = []

    def ask(device: str) -> bytes | None:
        asked.append(device)
        return b"answer" if device == "/dev/sda1" else None

    keys = Keys([Key("all", b"any"), Key("/dev/sda1", b"own"), Key("6F1C-UUID", b"by uuid")], ask=ask)
    assert list(keys.for_device("/dev/sda1", "6f1c-uuid")) == [b"own", b"by uuid", b"any", b"answer"]
    assert list(keys.for_device("/dev/sda1")) == [b"own", b"any", b"answer"]
    assert list(keys.for_device("/dev/sdb")) == [b"any"]
    assert asked == ["/dev/sda1", "/dev/sdb"]
