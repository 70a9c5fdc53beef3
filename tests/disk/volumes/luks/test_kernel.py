"""Volumes that a Linux kernel read: tests/data/volumes."""

from __future__ import annotations

import pytest

from guestctl.disk.volumes.keys import Key, Keys
from guestctl.disk.volumes.luks import assemble
from volume_images import digest, members, names, reads


@pytest.mark.parametrize("name", names("luks"))
def test_as_the_kernel_reads_it(name: str) -> None:
    for numbers, expected in reads(name).items():
        found = assemble(members(name, numbers), Keys([Key("all", b"guestctl")]))
        assert not found.warnings
        assert [digest(volume.device) for volume in found.volumes] == list(expected.values())
