"""OpenSSH: sshd_config(5) as ``sshd -T`` reads it, and the keys of AuthorizedKeysFile (sshd(8)).

Where a keyword is not set, its value is that of OpenSSH 7.0 and later. Match blocks are left out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from guestctl.detectors.linux.reading import included, text_of
from guestctl.detectors.report.users import AuthorizedKey
from guestctl.detectors.system import System

CONFIG = "/etc/ssh/sshd_config"
_DEFAULTS = {
    "port": "22",
    "permitrootlogin": "without-password",
    "passwordauthentication": "yes",
    "kbdinteractiveauthentication": "yes",
    "pubkeyauthentication": "yes",
    "permitemptypasswords": "no",
    "usepam": "no",
    "x11forwarding": "no",
    "allowtcpforwarding": "yes",
    "maxauthtries": "6",
    "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2",
}
_SYNONYMS = {"challengeresponseauthentication": "kbdinteractiveauthentication", "skeyauthentication": ""}
_REPEATED = {"port", "listenaddress", "allowusers", "denyusers", "allowgroups", "denygroups", "hostkey"}
_SHOWN = {*_DEFAULTS, *_REPEATED, "authorizedkeyscommand", "forcecommand", "authenticationmethods"}
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')
_MAX_INCLUDE_DEPTH = 16  # servconf's own limit
_MAX_FILES = 256
_MAX_KEYS = 4096
_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk)-[\w@.-]+")
# options, which may hold quoted blanks, before the type
_OPTIONS = re.compile(r'((?:[^\s"]|"(?:\\.|[^"\\])*")+)\s+(.*)')


def sshd_settings(system: System, defaults: Mapping[str, str] = {}) -> dict[str, str] | None:
    """What matters of the server's configuration, by keywords in lower case; None where there is none.

    `defaults` are those that a system's own OpenSSH has.
    """
    if not system.tree.is_file(CONFIG):
        return None
    found: dict[str, list[str]] = {}
    for keyword, words in _directives(system, CONFIG):
        keyword = _SYNONYMS.get(keyword, keyword)
        if keyword in _SHOWN and words and (keyword in _REPEATED or keyword not in found):
            found.setdefault(keyword, []).extend(words)
    settings = {**_DEFAULTS, **defaults, **{keyword: " ".join(words) for keyword, words in found.items()}}
    if settings["permitrootlogin"] == "prohibit-password":
        settings["permitrootlogin"] = "without-password"
    return settings


def _directives(system: System, path: str) -> Iterator[tuple[str, list[str]]]:
    """The directives outside of Match blocks, those of included files at their places."""
    pending = [iter(_lines(system, path))]
    files = 1
    while pending:
        for keyword, words in pending[-1]:
            if keyword == "match":
                pending.pop()
                break
            if keyword != "include":
                yield keyword, words
                continue
            paths = [one for word in words for one in included(system, word, "/etc/ssh")]
            files += len(paths)
            if len(pending) > _MAX_INCLUDE_DEPTH or files > _MAX_FILES:
                system.warnings.append(f"{path}: too many included files")
                return
            pending.extend(iter(_lines(system, one)) for one in reversed(paths))
            break
        else:
            pending.pop()


def _lines(system: System, path: str) -> list[tuple[str, list[str]]]:
    lines = []
    for line in text_of(system, path).splitlines():
        keyword, rest = re.match(r"\s*(\w*)\s*=?\s*(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
        if keyword:
            words = [quoted or plain for quoted, plain in _WORD.findall(rest)]
            comment = next((number for number, word in enumerate(words) if word.startswith("#")), len(words))
            lines.append((keyword.lower(), words[:comment]))
    return lines


def authorized_keys(
    patterns: str, name: str, home: str, keys_in: Callable[[str], Iterable[AuthorizedKey]]
) -> list[AuthorizedKey]:
    """The keys that may log in as the user `name`: what `keys_in` finds in the files of an AuthorizedKeysFile."""
    keys: list[AuthorizedKey] = []
    tokens = {"%h": home, "%u": name, "%%": "%"}
    for pattern in patterns.split():
        if pattern == "none":
            continue
        path = re.sub("%[hu%]", lambda token: tokens[token[0]], pattern)
        path = path if path.startswith("/") else f"{home.rstrip('/')}/{path}"
        keys += keys_in(path)
    return keys[:_MAX_KEYS]


def parse_authorized_keys(text: str, source: str) -> Iterator[AuthorizedKey]:
    """The keys of an authorized_keys file; a line that is none is left out, as sshd does."""
    for line in text.splitlines():
        line = line.strip()
        options = ""
        if not _KEY_TYPE.match(line):
            match = None if line.startswith("#") else _OPTIONS.fullmatch(line)
            if match is None:
                continue
            options, line = match.groups()
        words = line.split(None, 2)
        if len(words) < 2 or not _KEY_TYPE.fullmatch(words[0]):
            continue
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            continue
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        yield AuthorizedKey(
            type=words[0],
            fingerprint=f"SHA256:{digest}",
            comment=words[2] if len(words) > 2 else "",
            options=options,
            source=source,
        )
