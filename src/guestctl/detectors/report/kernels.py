"""Kernels and their modules."""

from __future__ import annotations

import msgspec


class KernelModules(msgspec.Struct, frozen=True, kw_only=True):
    """An installed kernel and how many modules it has; None where ``depmod``'s lists are not there."""

    version: str
    path: str | None
    initramfs: str | None
    modules: int | None
    built_in: int | None
    aliases: int | None
    out_of_tree: list[str] = []  # relative to the kernel's directory: ``updates/dkms/nvidia.ko``


class Kernels(msgspec.Struct, kw_only=True):
    """The kernels; ``load`` are modules that are loaded early, ``blacklist`` those that are kept out."""

    kernels: list[KernelModules] = []
    load: list[str] = []
    blacklist: list[str] = []
