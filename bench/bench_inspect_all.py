"""Inspection with every view, the whole process, beside the default one and dissect's target-query.

usage: bench_inspect_all.py IMAGE PEER_BIN
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import contest

image, peers = Path(sys.argv[1]), Path(sys.argv[2])
guestctl = Path(sys.executable).parent / "guestctl"
contest(
    f"inspect {image.name}: every view",
    {
        "guestctl inspect --all --json": (guestctl, "inspect", "--all", "--json", image),
        "guestctl inspect --all --html -": (guestctl, "inspect", "--all", "--html", "-", image),
        "guestctl inspect --json": (guestctl, "inspect", "--json", image),
        "target-query, four facts": (peers / "target-query", "-q", "-f", "os,hostname,version,architecture", image),
        "target-query, users and services": (peers / "target-query", "-q", "-f", "users,services", image),
    },
)
