"""Commands of GRUB 2 that its menu depends on (GRUB manual, "Commands"); blscfg is Fedora's, and GRUB 2.14's.

The others, which load, draw or wait, do nothing and succeed; those that ask a user or a machine fail.
"""

from __future__ import annotations

from collections.abc import Callable

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.boot.bls import read_entries
from guestctl.detectors.linux.boot.grub2 import devices, script
from guestctl.detectors.linux.boot.grub2.conditions import evaluate
from guestctl.detectors.linux.boot.grub2.environment import parse_environment
from guestctl.detectors.linux.boot.grub2.interpreter import Break, Interpreter, MenuEntry, NewMenu, Return
from guestctl.detectors.linux.boot.versions import version_key

_SEARCH_KINDS = {
    **dict.fromkeys(("--fs-uuid", "-u"), "UUID"),
    **dict.fromkeys(("--label", "--fs-label", "-l"), "LABEL"),
    **dict.fromkeys(("--file", "-f"), "file"),
}
_SEARCH_COMMANDS = 20  # that cost what looking at every device does
_FAIL = ("false", "keystatus", "cmostest", "regexp")


def run(state: Interpreter, name: str, arguments: list[str]) -> bool:
    """Run the command `name`, and tell whether it succeeds."""
    found = _COMMANDS.get(name)
    return found(state, arguments) if found else name not in _FAIL


def _set(state: Interpreter, arguments: list[str]) -> bool:
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals:
            state.assign(name, value)
    return True


def _unset(state: Interpreter, arguments: list[str]) -> bool:
    for name in arguments:
        state.variables.pop(name, None)
    return True


def _test(state: Interpreter, arguments: list[str]) -> bool:
    return evaluate(arguments, lambda path: state.places.kind(state.locate(path)))


def _bracket(state: Interpreter, arguments: list[str]) -> bool:
    return _test(state, arguments[:-1] if arguments[-1:] == ["]"] else arguments)


def _linux(state: Interpreter, arguments: list[str]) -> bool:
    if arguments:
        state.loaded.kernel = state.locate(arguments[0])
        state.loaded.command_line = " ".join(f'"{word}"' if " " in word else word for word in arguments[1:])
    return bool(arguments)


def _initrd(state: Interpreter, arguments: list[str]) -> bool:
    state.loaded.initrds += [state.locate(path) for path in arguments if not path.startswith("--")]
    return True


def _multiboot(state: Interpreter, arguments: list[str]) -> bool:
    state.loaded.kernel = None  # a hypervisor: its first module is the kernel
    return True


def _module(state: Interpreter, arguments: list[str]) -> bool:
    arguments = [one for one in arguments if one != "--nounzip"]
    return _linux(state, arguments) if state.loaded.kernel is None else _initrd(state, arguments[:1])


def _source(state: Interpreter, arguments: list[str]) -> bool:
    return bool(arguments) and state.run_file(state.locate(arguments[0]))


def _configfile(state: Interpreter, arguments: list[str]) -> bool:
    if not arguments or not state.places.is_file(state.locate(arguments[0])):
        return False
    state.menu.clear()
    _source(state, arguments)
    raise NewMenu


def _load_env(state: Interpreter, arguments: list[str]) -> bool:
    path, names = f"{state.variables.get('prefix', '')}/grubenv", []
    words = iter(arguments)
    for word in words:
        if word in ("-f", "--file"):
            path = next(words, "")
        elif word.startswith("--file="):
            path = word.partition("=")[2]
        elif not word.startswith("-"):
            names.append(word)
    text = state.read(state.locate(path))
    for name, value in parse_environment(text or "").items():
        if not names or name in names:
            state.assign(name, value)
    return text is not None


def _search(state: Interpreter, arguments: list[str]) -> bool:
    kind, variable, value = "file", "root", ""
    words = iter(arguments)
    for word in words:
        if word in _SEARCH_KINDS:
            kind = _SEARCH_KINDS[word]
        elif word.startswith("--set="):
            variable = word.removeprefix("--set=")
        elif word == "--hint":
            next(words, "")
        elif not word.startswith("-"):
            value = value or word
    return _found(state, kind, value, variable)


def _found(state: Interpreter, kind: str, value: str = "", variable: str = "root", *hints: str) -> bool:
    state.count(_SEARCH_COMMANDS)
    device = devices.search(state.places, kind, value)
    if device is not None:
        state.assign(variable, device)
    return device is not None


def _blscfg(state: Interpreter, arguments: list[str]) -> bool:
    """The entries of the Boot Loader Specification on the device of ``boot`` or ``root``, the newest name first."""
    blsdir = state.variables.get("blsdir")
    roots = dict.fromkeys(state.variables[name] for name in ("boot", "root") if name in state.variables)
    for root in roots:
        for directory in [blsdir] if blsdir else ["/loader/entries", "/boot/loader/entries"]:
            prefix = "" if directory.startswith("(") else f"({root})"
            entries = list(read_entries(state.places, state.locate(prefix + directory)))
            for entry in sorted(entries, key=lambda one: version_key(one.id), reverse=True):
                lines = [f"set root='{root}'", f"linux {entry.kernel or ''} {entry.options}"]
                lines += [f"initrd {path}" for path in entry.initrds]
                try:
                    block = script.parse("\n".join(lines))
                except InvalidFormat as error:
                    state.places.warn(entry.source, error)
                    continue
                state.add(MenuEntry(entry.title, entry.id, block, [entry.title], entry.source))
            if entries:
                return True
    return False


def _break(state: Interpreter, arguments: list[str]) -> bool:
    raise Break


def _return(state: Interpreter, arguments: list[str]) -> bool:
    raise Return


_COMMANDS: dict[str, Callable[[Interpreter, list[str]], bool]] = {
    "set": _set,
    "unset": _unset,
    "test": _test,
    "[": _bracket,
    **dict.fromkeys(("linux", "linux16", "linuxefi"), _linux),
    **dict.fromkeys(("initrd", "initrd16", "initrdefi"), _initrd),
    **dict.fromkeys(("multiboot", "multiboot2", "xen_hypervisor"), _multiboot),
    **dict.fromkeys(("module", "module2", "xen_module"), _module),
    **dict.fromkeys(("source", "."), _source),
    "configfile": _configfile,
    "load_env": _load_env,
    "search": _search,
    "search.fs_uuid": lambda state, arguments: _found(state, "UUID", *arguments),
    "search.fs_label": lambda state, arguments: _found(state, "LABEL", *arguments),
    "search.file": lambda state, arguments: _found(state, "file", *arguments),
    "blscfg": _blscfg,
    "break": _break,
    "return": _return,
}
