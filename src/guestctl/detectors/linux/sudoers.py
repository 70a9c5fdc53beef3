"""sudoers(5): user specifications, aliases, Defaults, with what they include."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.security import Sudoers, SudoRule
from guestctl.detectors.system import System

_MAX_DEPTH = 16
_MAX_FILES = 256
_MAX_RULES = 10_000
_INCLUDE = re.compile(r"[#@](include|includedir)\s+(.+)")
_ALIAS = re.compile(r"(?:User|Runas|Host|Cmnd|Cmd)_Alias\s+(.*)", re.DOTALL)
_TAGS = (
    "EXEC", "FOLLOW", "INTERCEPT", "LOG_INPUT", "LOG_OUTPUT", "MAIL", "PASSWD", "SETENV",
)  # fmt: skip
_TAG = re.compile(rf"((?:NO)?(?:{'|'.join(_TAGS)}))\s*:\s*(.*)", re.DOTALL)
_OPTION = re.compile(
    r"((?:ROLE|TYPE|PRIVS|LIMITPRIVS|APPARMOR_PROFILE|TIMEOUT|CWD|CHROOT|NOTBEFORE|NOTAFTER)=\S+)\s+(.*)", re.DOTALL
)
_RUN_AS = re.compile(r"\(([^)]*)\)\s*(.*)", re.DOTALL)
# What a colon after it does not end: a tag, or the kind of a digest.
_BEFORE_COLON = re.compile(rf"(?:^|[\s,=)])(?:(?:NO)?(?:{'|'.join(_TAGS)})|sha(?:224|256|384|512))\s*$")


def sudoers(system: System, path: str = "/etc/sudoers") -> Sudoers | None:
    """The rules of the file at `path`; None where there is no sudo."""
    if not system.tree.is_file(path):
        return None
    found = Sudoers()
    for line, source in _lines(system, path):
        if len(found.rules) >= _MAX_RULES:
            system.warnings.append(f"{source}: more than {_MAX_RULES} rules")
            break
        _read_line(line, source, found)
    return found


def words_in(found: Sudoers) -> int:
    """How many names `rules_for` may have to look at."""
    aliases = sum(map(len, found.aliases.values()))
    return sum(len(rule.users) + aliases for rule in found.rules)


def rules_for(found: Sudoers, user: str, uid: int, groups: list[str]) -> list[SudoRule]:
    """The rules that name a user, a group of his, or ALL, also by way of aliases."""
    names = {user, f"#{uid}", "ALL", *(f"%{group}" for group in groups)}
    return [rule for rule in found.rules if _names(rule.users, found.aliases, names)]


def _names(members: list[str], aliases: dict[str, list[str]], names: set[str]) -> bool:
    """The last word that matches decides, as with sudo; one with a ! takes out."""
    allowed = False
    pending, seen = [(word, True) for word in reversed(members)], set()
    while pending:
        word, sense = pending.pop()
        while word.startswith("!"):
            word, sense = word[1:].lstrip(), not sense
        if word in names:
            allowed = sense
        elif word in aliases and (word, sense) not in seen:
            seen.add((word, sense))
            pending += [(inner, sense) for inner in reversed(aliases[word])]
    return allowed


def _lines(system: System, top: str) -> Iterator[tuple[str, str]]:
    """(line, file) with continued lines joined and included files at their places."""
    stack = [iter(_logical(text_of(system, top)))]
    paths, files = [top], 1
    while stack:
        for line in stack[-1]:
            include = _INCLUDE.fullmatch(line)
            if include is None:
                yield line, paths[-1]
                continue
            included = _included(system, include[1], include[2].strip().strip('"'), posixpath.dirname(paths[-1]))
            files += len(included)
            if len(stack) > _MAX_DEPTH or files > _MAX_FILES:
                system.warnings.append(f"{top}: too many included files")
                return
            for path in reversed(included):
                stack.append(iter(_logical(text_of(system, path))))
                paths.append(path)
            break
        else:
            stack.pop()
            paths.pop()


def _included(system: System, kind: str, target: str, base: str) -> list[str]:
    path = posixpath.join(base, target)
    if kind == "include":
        return [path]
    return [f"{path}/{name}" for name in names_in(system, path) if "." not in name and not name.endswith("~")]


def _logical(text: str) -> list[str]:
    lines = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = line.strip()
        # "#" before a number is a user.
        if line.startswith("#") and not (_INCLUDE.fullmatch(line) or line[1:2].isdigit()):
            continue
        line = re.sub(r"(?<=[\s,])#(?!\d|include).*$", "", line).strip()
        if line:
            lines.append(line)
    return lines


def _read_line(line: str, source: str, found: Sudoers) -> None:
    alias = _ALIAS.fullmatch(line)
    if line.startswith("Defaults"):
        found.defaults.append(line.removeprefix("Defaults").strip())
    elif alias:
        for part in _split(alias[1], ":"):
            name, _, members = part.partition("=")
            found.aliases[name.strip()] = _split(members, ",")
    else:
        # Blanks around commas and after ! do not divide users from hosts.
        line = re.sub(r"(?<!\s)\s*+(?<!\\),\s*", ", ", re.sub(r"!\s+", "!", line))
        head = re.match(r'((?:"[^"]*"|\\.|(?<=,) |[^\s"\\])+)\s+(.*)', line, re.DOTALL)
        if head:
            users = _split(head[1], ",")
            for part in _split(head[2], ":"):
                hosts, _, commands = part.partition("=")
                found.rules += _commands(commands, users, _split(hosts, ","), source)


def _commands(text: str, users: list[str], hosts: list[str], source: str) -> list[SudoRule]:
    """A rule for each run of commands that have the same users to run as and the same tags."""
    rules: list[SudoRule] = []
    run_as: tuple[list[str], list[str]] = ([], [])
    tags: dict[str, str] = {}
    for item in _split(text, ","):
        match = _RUN_AS.fullmatch(item)
        if match:
            run_users, _, run_groups = match[1].partition(":")
            run_as, item = (_split(run_users, ","), _split(run_groups, ",")), match[2]
        while match := _TAG.fullmatch(item) or _OPTION.fullmatch(item):
            tag, item = match.groups()
            tags[tag.partition("=")[0] if "=" in tag else tag.removeprefix("NO")] = tag
        rule = SudoRule(
            users=users,
            hosts=hosts,
            run_as_users=run_as[0],
            run_as_groups=run_as[1],
            tags=list(tags.values()),
            commands=[item],
            source=source,
        )
        last = rules[-1] if rules else None
        if last and (last.run_as_users, last.run_as_groups, last.tags) == (*run_as, rule.tags):
            last.commands.append(item)
        else:
            rules.append(rule)
    return rules


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that are not escaped, quoted, in parentheses, or after a tag."""
    parts, start, depth, quoted = [], 0, 0, False
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character in "()" and not quoted:
            depth += 1 if character == "(" else -1
        elif character == separator and not (quoted or depth > 0 or _is_tag(text, start, position)):
            parts.append(text[start:position].strip())
            start = position + 1
        position += 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _is_tag(text: str, start: int, position: int) -> bool:
    return text[position] == ":" and _BEFORE_COLON.search(text, max(start, position - 20), position) is not None
