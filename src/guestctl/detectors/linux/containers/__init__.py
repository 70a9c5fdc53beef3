"""Container hosts: what docker and containers-storage (podman, CRI-O, buildah) keep; whether there is more.

containerd keeps its names in a bolt database, which is not read: it is named in ``engines`` and in a warning.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from guestctl.core.errors import GuestctlError
from guestctl.detectors.linux.reading import names_in
from guestctl.detectors.report.containers import Containers
from guestctl.detectors.system import System

_MAX_JSON_BYTES = 16 << 20
_CONTAINERD = "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
_KUBELET = ("/usr/bin/kubelet", "/usr/local/bin/kubelet", "/etc/kubernetes/kubelet.conf", "/var/lib/rancher/k3s")


def containers(system: System) -> Containers:
    """The images and containers of every engine."""
    from guestctl.detectors.linux.containers import docker, storage

    found = Containers()
    tree = system.tree
    if tree.is_dir(docker.ROOT):
        found.engines.append("docker")
        docker.read(system, found)
    homes = ["/root", *(f"/home/{name}" for name in names_in(system, "/home"))]
    roots = [storage.ROOT, *(f"{home}/{storage.ROOTLESS}" for home in homes)]
    stores = [root for root in roots if tree.is_dir(root)]
    if stores:
        found.engines.append("containers-storage")
    for root in stores:
        storage.read(system, root, found)
    if tree.is_file(_CONTAINERD):
        found.engines.append("containerd")
        system.warnings.append(f"containers: the images and containers of containerd are not read: {_CONTAINERD}")
    if any(tree.exists(path) for path in _KUBELET):
        found.engines.append("kubelet")
    return found


def read_json(system: System, path: str, kind: type) -> Any:
    """The document in a file, an empty one where there is none or it is damaged or no `kind`."""
    try:
        if not system.tree.is_file(path):
            return kind()
        document = json.loads(system.tree.read_bytes(path, limit=_MAX_JSON_BYTES))
        if not isinstance(document, kind):
            raise ValueError(f"no {kind.__name__}")
    except (GuestctlError, OSError, ValueError, RecursionError) as error:
        system.warnings.append(f"{path}: {error}")
        return kind()
    return document


def dictionaries(items: list[Any]) -> list[dict[str, Any]]:
    return [item for item in itertools.islice(items, 1 << 14) if isinstance(item, dict)]


def text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
