"""Packages of languages."""

from __future__ import annotations

from guestctl.detectors.report.packages import Package
from guestctl.detectors.system import System


def language_packages(system: System) -> list[Package]:
    return []
