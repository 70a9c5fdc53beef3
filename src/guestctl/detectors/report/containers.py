"""The images and containers that a container host keeps."""

from __future__ import annotations

import msgspec


class ContainerImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image; ``size`` is that of its layers in bytes, None where that is not recorded."""

    engine: str
    id: str
    names: list[str] = []
    created: str | None = None  # as the engine wrote it, RFC 3339
    size: int | None = None


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container; ``state`` is the engine's word, None where it lies in a database that is not read."""

    engine: str
    id: str
    name: str
    image: str
    state: str | None = None
    created: str | None = None


class Containers(msgspec.Struct, kw_only=True):
    """``engines``: "docker", "containers-storage" (podman, CRI-O, buildah), "containerd", "kubelet"."""

    engines: list[str] = []
    images: list[ContainerImage] = []
    containers: list[Container] = []
