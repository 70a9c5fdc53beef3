"""Linux guests. Each detector takes the guest's tree and fills in what it knows."""

from __future__ import annotations

from collections.abc import Callable

from guestctl.detectors.files import Tree
from guestctl.detectors.linux.architecture import detect_architecture
from guestctl.detectors.linux.distribution import detect_distribution
from guestctl.detectors.linux.kernels import detect_kernels
from guestctl.detectors.linux.network import detect_network
from guestctl.detectors.linux.services import detect_services
from guestctl.detectors.linux.settings import detect_hostname, detect_locale, detect_ssh_keys, detect_timezone
from guestctl.detectors.linux.users import detect_users
from guestctl.detectors.report import Guest

DETECTORS: dict[str, Callable[[Tree, Guest], None]] = {
    "distribution": detect_distribution,
    "architecture": detect_architecture,
    "hostname": detect_hostname,
    "services": detect_services,
    "kernels": detect_kernels,
    "timezone": detect_timezone,
    "locale": detect_locale,
    "users": detect_users,
    "ssh host keys": detect_ssh_keys,
    "network": detect_network,
}
