"""Walking every key and value of a SOFTWARE-sized hive, data included, beside python-registry and regipy.

regipy's time grows with the square of a hive's size (60 MB: more than ten minutes), so that it gets a smaller one.

usage: bench_registry.py HIVE SMALL_HIVE PEER_PYTHON
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import contest

GUESTCTL = """
import sys, time
from guestctl.block import FileDevice
from guestctl.detectors.registry import Hive
started = time.process_time()
keys = values = size = 0
with FileDevice.open(sys.argv[1]) as file:
    for path, key in Hive(file).walk():
        keys += 1
        key.modified_ns
        for value in key.values():
            values += 1
            size += len(value.data)
print(keys, values, size, time.process_time() - started)
"""
PYTHON_REGISTRY = """
import sys, time
from Registry.Registry import Registry
started = time.process_time()
keys = values = size = 0
pending = [Registry(sys.argv[1]).root()]
while pending:
    key = pending.pop()
    keys += 1
    key.path(), key.timestamp()
    for value in key.values():
        values += 1
        value.name(), value.value_type()
        size += len(value.raw_data())
    pending += key.subkeys()
print(keys, values, size, time.process_time() - started)
"""
REGIPY = """
import sys, time
from regipy.registry import RegistryHive
started = time.process_time()
keys = values = 0
for key in RegistryHive(sys.argv[1]).recurse_subkeys(as_json=False):
    keys += 1
    key.path, key.timestamp
    for value in key.values:
        values += 1
        value.name, value.value_type, value.value
print(keys, values, time.process_time() - started)
"""


def main() -> None:
    large, small, peer = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    programs = {"guestctl": GUESTCTL, "python-registry": PYTHON_REGISTRY, "regipy": REGIPY}
    for hive, names in ((large, ("guestctl", "python-registry")), (small, tuple(programs))):
        contest(
            f"Every key and value of a hive of {hive.stat().st_size / 1e6:.0f} MB (processor time)",
            {name: [sys.executable if name == "guestctl" else peer, "-c", programs[name], hive] for name in names},
            reports_time=True,
        )


main()
