"""What ``inspect --all`` says of a guest, and the commands ``services``, ``users``… a part of each."""

from __future__ import annotations

import msgspec

from guestctl.detectors.report.boot import Boot
from guestctl.detectors.report.cloud_init import CloudInit
from guestctl.detectors.report.containers import Containers
from guestctl.detectors.report.journal import Journal
from guestctl.detectors.report.kernels import Kernels
from guestctl.detectors.report.network import NetworkInterface
from guestctl.detectors.report.packages import Package
from guestctl.detectors.report.security import Security
from guestctl.detectors.report.services import Service
from guestctl.detectors.report.storage import Storage
from guestctl.detectors.report.users import Account
from guestctl.detectors.report.windows import Windows


class Details(msgspec.Struct, kw_only=True):
    """The views of a guest by their names; None where there is no such view, or it failed."""

    boot: Boot | None = None
    kernels: Kernels | None = None
    storage: Storage | None = None
    network: list[NetworkInterface] | None = None
    services: list[Service] | None = None
    users: list[Account] | None = None
    packages: list[Package] | None = None
    journal: Journal | None = None
    windows: Windows | None = None
    security: Security | None = None
    containers: Containers | None = None
    cloud_init: CloudInit | None = None
