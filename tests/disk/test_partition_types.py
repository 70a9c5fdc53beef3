from __future__ import annotations

from collections.abc import Callable

import pytest

from guestctl.disk.partition_types import GPT_TYPES, MBR_TYPES


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_names_are_those_of_sfdisk(run: Callable[..., str], label: str) -> None:
    lines = run("sfdisk", "--list-types", "--label", label).splitlines()[2:]
    listed = {identifier.lower(): name for identifier, _, name in (line.strip().partition("  ") for line in lines)}
    assert len(listed) > 90
    known = GPT_TYPES if label == "gpt" else {f"{byte:x}": name for byte, name in MBR_TYPES.items()}
    assert {identifier: known.get(identifier) for identifier in listed} == listed
