"""systemd's units as ``systemctl --root=… list-unit-files`` tells them, and the instances that are enabled.

systemd.unit(5): the load path, drop-ins, ``.wants`` and ``.requires`` directories, [Install]; systemd.syntax(7).
systemctl(1): the states of unit files. Generators do not run: what they made is read where /run was kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.detectors.linux.reading import text_of
from guestctl.detectors.report.services import Service
from guestctl.detectors.system import System

# The load path of the system manager, the first wins.
_LOAD_PATH = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
)
_CONFIGURATION = ("/etc/", "/run/")
_UNIT_NAME = re.compile(
    r"[\w:.\\@-]+\.(automount|device|mount|path|scope|service|slice|socket|swap|target|timer)", re.ASCII
)
_PULLS = (".wants", ".requires", ".upholds")
_MAX_UNITS = 1 << 14
_MAX_LINKS = 40

Unit = dict[tuple[str, str], list[str]]  # (section, key): the values in order


def parse_unit(text: str, into: Unit | None = None) -> Unit:
    """The assignments of a unit file, after those of `into`; an empty one drops what was assigned before."""
    unit: Unit = {} if into is None else into
    section = ""
    pending: list[str] = []  # of a line that goes on
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(("#", ";")) or (not line and not pending):
            continue
        if (len(line) - len(line.rstrip("\\"))) % 2:  # a backslash that no other escapes
            pending.append(line[:-1].rstrip())
            continue
        line, pending = " ".join([*pending, line]), []
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key, equals, value = line.partition("=")
        values = unit.setdefault((section, key.rstrip()), []) if equals and section else []
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()
    return unit


class UnitFiles:
    """What the directories of the load path hold; looked at once."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._tree = tree = system.tree
        self.paths: dict[str, str] = {}  # unit -> the file that counts
        self._pulled: dict[str, list[str]] = {}  # unit -> directories that hold a link in .wants, .requires
        self._links: dict[str, list[tuple[str, str]]] = {}  # target's name -> links to it: (directory, name)
        self._drop_ins: dict[str, dict[str, str]] = {}  # unit or prefix of units -> file name -> path
        self._directories: dict[str, str] = {}  # real path -> directory
        for directory in _LOAD_PATH:
            if tree.is_dir(directory):
                self._directories.setdefault(tree.realpath(directory), directory)
        for directory in self._directories.values():
            self._look_at(directory)

    def _look_at(self, directory: str) -> None:
        for entry in self._tree.scandir(directory):
            if len(self.paths) > _MAX_UNITS:
                self._system.warnings.append(f"services: more than {_MAX_UNITS} units")
                return
            name, path = entry.name, f"{directory}/{entry.name}"
            if name.endswith(_PULLS) and entry.is_dir():
                for pulled in self._tree.scandir(path):
                    if pulled.is_symlink():
                        self._pulled.setdefault(pulled.name, []).append(path)
            elif name.endswith(".d") and entry.is_dir():
                known = self._drop_ins.setdefault(name[:-2], {})
                for file in self._tree.listdir(path):
                    if file.endswith(".conf"):
                        known.setdefault(file, f"{path}/{file}")
            elif _UNIT_NAME.fullmatch(name) and (entry.is_symlink() or entry.is_file()):
                self.paths.setdefault(name, path)
                if entry.is_symlink():
                    target = self._tree.readlink(path).rpartition("/")[2]
                    self._links.setdefault(target, []).append((directory, name))

    def services(self) -> Iterator[Service]:
        """A record of each unit file and of each enabled instance of a template, sorted by name."""
        instances = [name for name in self._pulled if name not in self.paths and self._template(name) in self.paths]
        for name in sorted([*self.paths, *instances]):
            try:
                yield self._service(name)
            except (GuestctlError, OSError) as error:
                self._system.warnings.append(f"services: {name}: {error}")

    def _service(self, name: str) -> Service:
        path = self.paths.get(name) or self.paths[self._template(name)]
        target = self._target(path)
        kind = name.rpartition(".")[2]
        runtime = "-runtime" if path.startswith("/run/") else ""
        if target is None:
            return Service(name=name, kind=kind, start="bad", source=path)
        if target == "/dev/null" or self._tree.stat(target).st_size == 0:
            return Service(name=name, kind=kind, start="masked" + runtime, source=path)
        drop_ins = self.drop_ins(name)
        unit = parse_unit(text_of(self._system, target))
        for drop_in in drop_ins:
            parse_unit(text_of(self._system, drop_in), unit)
        start = self._state(name, path, target, unit)
        return _record(name, start, unit, path, drop_ins)

    def _target(self, path: str) -> str | None:
        """The regular file that `path` leads to, or /dev/null, which an offline tree may lack.

        A link that leads nowhere, or into the load path, stands for the unit of that name.
        """
        for _ in range(_MAX_LINKS):
            if path == "/dev/null" or not self._tree.is_symlink(path):
                break
            link = self._tree.readlink(path)
            path = link if link.startswith("/") else f"{path.rpartition('/')[0]}/{link}"
            folder, _, file = path.rpartition("/")
            if file in self.paths and (not self._tree.exists(path) or self._tree.realpath(folder) in self._directories):
                path = self.paths[file]
        if path == "/dev/null":
            return path
        is_file = self._tree.is_file(path) and not self._tree.is_symlink(path)
        return self._tree.realpath(path) if is_file else None

    def _state(self, name: str, path: str, target: str, unit: Unit) -> str:
        directory = path.rpartition("/")[0]
        for state in ("generator", "transient"):
            if directory.startswith(f"/run/systemd/{state}"):
                return {"generator": "generated"}.get(state, state)
        if self._tree.is_symlink(path):
            file = target.rpartition("/")[2]
            if file == name:
                return "linked-runtime" if path.startswith("/run/") else "linked"
            if file != self._template(name):
                return "alias"
        return self._enabled(name, unit)

    def _enabled(self, name: str, unit: Unit) -> str:
        aliases = set(_words(unit, "Alias"))
        names = {name, *_default_instance(name, unit)}
        places = [place for known in names for place in self._pulled.get(known, ())]
        links = self._links.get(name, [])
        if self._template(name) != name:
            places += [place for place, link in self._links.get(self._template(name), ()) if link == name]
        places += [place for place, link in links if link in aliases]
        for root, state in (("/etc/", "enabled"), ("/run/", "enabled-runtime")):
            if any(place.startswith(root) for place in places):
                return state
        if places and _is_instance(name):
            return "static"
        others = [place for place, link in links if link != name]
        if "@." in name:
            others += [p for pulled, all in self._pulled.items() if self._template(pulled) == name for p in all]
        if any(place.startswith(_CONFIGURATION) for place in others):
            return "indirect"
        if aliases or any(_words(unit, key) for key in ("WantedBy", "RequiredBy", "UpheldBy")):
            return "disabled"
        return "indirect" if _words(unit, "Also") else "static"

    @staticmethod
    def _template(name: str) -> str:
        """``getty@.service`` of ``getty@tty1.service``; `name` itself where it is no instance."""
        stem, _, kind = name.rpartition(".")
        prefix, at, _ = stem.partition("@")
        return f"{prefix}@.{kind}" if at else name

    def drop_ins(self, name: str) -> list[str]:
        """The drop-in files of a unit in the order in which they apply: that of their file names."""
        stem, _, kind = name.rpartition(".")
        candidates = [name, self._template(name)]
        words = stem.split("-")
        candidates += ["-".join(words[:count]) + "-." + kind for count in range(len(words) - 1, 0, -1)]
        found: dict[str, str] = {}
        for candidate in [*candidates, kind]:
            for file, path in self._drop_ins.get(candidate, {}).items():
                found.setdefault(file, path)
        return [found[file] for file in sorted(found)]


def units(system: System) -> list[Service]:
    """Every unit file of the system manager, and every enabled instance."""
    return list(UnitFiles(system).services())


def _is_instance(name: str) -> bool:
    return "@" in name and "@." not in name


def _default_instance(name: str, unit: Unit) -> list[str]:
    instance = unit.get(("Install", "DefaultInstance"), [])
    return [name.replace("@.", f"@{instance[-1]}.")] if instance and "@." in name else []


def _words(unit: Unit, key: str, section: str = "Install") -> list[str]:
    return [word for value in unit.get((section, key), ()) for word in value.split()]


def _record(name: str, start: str, unit: Unit, path: str, drop_ins: list[str]) -> Service:
    kind = name.rpartition(".")[2]
    schedule = [
        value if key == "OnCalendar" else f"{key}={value}"
        for (section, key), values in unit.items()
        if section == "Timer" and key.startswith("On")
        for value in values
    ]
    listen = [
        f"{key.removeprefix('Listen').lower()}:{value}"
        for (section, key), values in unit.items()
        if section == "Socket" and key.startswith("Listen")
        for value in values
    ]
    return Service(
        name=name,
        kind=kind,
        start=start,
        description=" ".join(unit.get(("Unit", "Description"), [])[-1:]),
        command="; ".join(unit.get(("Service", "ExecStart"), [])),
        account=" ".join(unit.get((kind.capitalize(), "User"), [])[-1:]),
        source=path,
        schedule="; ".join(schedule),
        listen=listen,
        wanted_by=_words(unit, "WantedBy"),
        required_by=_words(unit, "RequiredBy"),
        also=_words(unit, "Also"),
        aliases=_words(unit, "Alias"),
        drop_ins=drop_ins,
    )
