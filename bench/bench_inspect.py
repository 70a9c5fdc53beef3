"""Inspection, the whole process from a cold start, beside dissect's target-query.

usage: bench_inspect.py IMAGE PEER_BIN [BIG_IMAGE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import contest

image, peers = Path(sys.argv[1]), Path(sys.argv[2])
guestctl = Path(sys.executable).parent / "guestctl"
contest(
    f"inspect {image.name}: guestctl with applications, dissect four facts",
    {
        "guestctl inspect --json": (guestctl, "inspect", "--json", image),
        "dissect target-query": (
            peers / "target-query",
            "-q",
            "-f",
            "os,hostname,version,architecture",
            image,
        ),
    },
)
contest("start", {"guestctl --help": (guestctl, "--help"), "python -c pass": (sys.executable, "-c", "pass")})
if len(sys.argv) > 3:
    big = Path(sys.argv[3])
    contest(
        f"inspect {big.name} beside {image.name}",
        {
            f"guestctl {image.name}": (guestctl, "inspect", "--json", image),
            f"guestctl {big.name}": (guestctl, "inspect", "--json", big),
        },
    )
