"""Kernel modules: what ``depmod`` lists beside them (modules.dep(5), kmod), and which are loaded or kept out by name.

``/etc/modules`` and modules-load.d(5) name what is loaded early; ``blacklist`` of modprobe.d(5) keeps aliases from
loading a module, ``install`` with a program that does nothing keeps it out altogether.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.linux.kernels import find_kernels
from guestctl.detectors.report.kernels import KernelModules, Kernels
from guestctl.detectors.system import System

_BASES = ("/lib/modules", "/usr/lib/modules")
# Of distributions' kernels, modules.alias is the largest, some 2 MiB.
_MAX_LIST_BYTES = 16 << 20
_CONFIGURATION = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
_NOTHING = ("/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false", "/sbin/true", ":")


def kernels(system: System) -> Kernels:
    """The view of the kernels and their modules."""
    tree = system.tree
    return Kernels(
        kernels=[_modules_of(tree, kernel.version, kernel.path, kernel.initramfs) for kernel in find_kernels(tree)],
        load=list(dict.fromkeys(_early_modules(tree))),
        blacklist=sorted(set(_blacklist(tree))),
    )


def module_name(path: str) -> str:
    """The name that the kernel has for the module in a file: ``virtio_blk`` for ``…/virtio-blk.ko.xz``."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def built_in(tree: Tree, version: str) -> set[str] | None:
    """The modules that a kernel has built in; None where its list is not there."""
    lines = _lines(tree, version, "modules.builtin")
    return None if lines is None else {module_name(line) for line in lines}


def dependencies(tree: Tree, version: str) -> dict[str, list[str]] | None:
    """Each module of a kernel and all that it needs; None where the list is not there."""
    lines = _lines(tree, version, "modules.dep")
    if lines is None:
        return None
    pairs = (line.partition(":") for line in lines)
    return {module_name(path): [module_name(one) for one in needed.split()] for path, _, needed in pairs}


def _modules_of(tree: Tree, version: str, path: str | None, initramfs: str | None) -> KernelModules:
    modules = _lines(tree, version, "modules.dep")
    within = _lines(tree, version, "modules.builtin")
    aliases = _lines(tree, version, "modules.alias")
    return KernelModules(
        version=version,
        path=path,
        initramfs=initramfs,
        modules=None if modules is None else len(modules),
        built_in=None if within is None else len(within),
        aliases=None if aliases is None else sum(line.startswith("alias ") for line in aliases),
        out_of_tree=sorted(line.partition(":")[0] for line in modules or () if not line.startswith("kernel/")),
    )


def _lines(tree: Tree, version: str, name: str) -> list[str] | None:
    for base in _BASES:
        text = read_config(tree, f"{base}/{version}/{name}", limit=_MAX_LIST_BYTES)
        if text is not None:
            return [line for line in text.splitlines() if line]
    return None


def _early_modules(tree: Tree) -> Iterator[str]:
    texts = [read_config(tree, "/etc/modules"), *(text for _, text in _configuration(tree, "modules-load.d"))]
    for text in texts:
        for line in (text or "").splitlines():
            words = line.split()
            if words and not words[0].startswith(("#", ";")):
                yield words[0].replace("-", "_")


def _blacklist(tree: Tree) -> Iterator[str]:
    for _, text in _configuration(tree, "modprobe.d"):
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split()
            if len(words) >= 2 and (
                words[0] == "blacklist" or (words[0] == "install" and words[2:3] and words[2] in _NOTHING)
            ):
                yield words[1].replace("-", "_")


def _configuration(tree: Tree, name: str) -> Iterator[tuple[str, str]]:
    """The files of a configuration directory by their names; one hides those of its name that come later."""
    found: dict[str, str] = {}
    for base in _CONFIGURATION:
        for file in list_directory(tree, f"{base}/{name}"):
            if file.endswith(".conf"):
                found.setdefault(file, f"{base}/{name}/{file}")
    for _, path in sorted(found.items()):
        text = read_config(tree, path)
        if text is not None:
            yield path, text
