"""Who may do what on a BSD system: the ssh server's settings, sudoers(5), and doas.conf(5) in the words of sudoers.

Of doas.conf "permit" and "deny" rules are read with their options, target and command; as with sudo, the last that
matches decides. OpenBSD's own is in /etc, where packages put theirs differs.
"""

from __future__ import annotations

import re

from guestctl.core.types import GuestType
from guestctl.detectors.linux.reading import text_of
from guestctl.detectors.linux.ssh import sshd_settings
from guestctl.detectors.linux.sudoers import sudoers
from guestctl.detectors.report.security import Sudoers, SudoRule
from guestctl.detectors.system import System

_DIRECTORIES = ("/etc", "/usr/local/etc", "/usr/pkg/etc")
# Where their sshd_config(5) has another default than OpenSSH.
_SSHD = {
    GuestType.FREEBSD: {"permitrootlogin": "no", "passwordauthentication": "no", "usepam": "yes"},
    GuestType.NETBSD: {"permitrootlogin": "no"},
}
_TOKEN = re.compile(r'\\\n|#[^\n]*|\n|[{}]|"(?:\\.|[^"\\\n])*"|(?:\\.|[^\s{}"#\\])+')
_MAX_RULES = 10_000


def sshd(system: System) -> dict[str, str] | None:
    """What matters of the server's configuration; None where there is none."""
    return sshd_settings(system, _SSHD.get(system.guest.type, {}))


def rights(system: System) -> Sudoers | None:
    """The rules of sudo and doas; None where there is neither."""
    found: Sudoers | None = None
    for directory in _DIRECTORIES:
        for one in (sudoers(system, f"{directory}/sudoers"), _doas(system, f"{directory}/doas.conf")):
            if one is not None:
                found = found or Sudoers()
                found.rules += one.rules
                found.aliases |= one.aliases
                found.defaults += one.defaults
    return found


def _doas(system: System, path: str) -> Sudoers | None:
    if not system.tree.is_file(path):
        return None
    return Sudoers(rules=parse_doas(text_of(system, path), path))


def parse_doas(text: str, source: str) -> list[SudoRule]:
    """The rules of a doas.conf. A line that is none ends them: doas refuses such a file."""
    rules: list[SudoRule] = []
    words: list[str] = []
    for token in [*_TOKEN.findall(text), "\n"]:
        if token == "\n":
            rule = _rule(words, source) if words else None
            if words and (rule is None or len(rules) == _MAX_RULES):
                break
            rules += [rule] if rule else []
            words = []
        elif token != "\\\n" and not token.startswith("#"):
            words.append(re.sub(r"\\(.)", r"\1", token.strip('"') if token[0] == '"' else token))
    return rules


def _rule(words: list[str], source: str) -> SudoRule | None:
    """permit|deny [options] identity [as target] [cmd command [args ...]]"""
    pending = words[::-1]
    action = pending.pop()
    tags = []
    while pending and pending[-1] in ("nopass", "nolog", "persist", "keepenv", "setenv"):
        option = pending.pop()
        tags.append("NOPASSWD" if option == "nopass" else option)
        if option == "setenv":
            if "}" not in pending:
                return None
            while pending.pop() != "}":
                pass
    if action not in ("permit", "deny") or not pending:
        return None
    identity = pending.pop()
    target = command = None
    if len(pending) > 1 and pending[-1] == "as":
        target = pending[-2]
        del pending[-2:]
    if len(pending) > 1 and pending.pop() == "cmd":
        command = " ".join(word for word in reversed(pending) if word != "args")
    elif pending:
        return None
    user = f"%{identity[1:]}" if identity.startswith(":") else f"#{identity}" if identity.isdecimal() else identity
    return SudoRule(
        users=[user],
        hosts=["ALL"],
        run_as_users=[target or "ALL"],
        tags=tags,
        commands=[("!" if action == "deny" else "") + (command or "ALL")],
        source=source,
    )
