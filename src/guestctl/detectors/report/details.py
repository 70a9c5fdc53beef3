"""What ``inspect --all`` says of a guest, and the commands ``services``, ``users``… a part of each."""

from __future__ import annotations

import msgspec

from guestctl.detectors.report.network import NetworkInterface


class Details(msgspec.Struct, kw_only=True):
    """The views of a guest by their names; None where there is no such view, or it failed."""

    network: list[NetworkInterface] | None = None
