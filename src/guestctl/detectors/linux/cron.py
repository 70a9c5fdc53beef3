"""What cron, anacron and at start.

crontab(5) of cron and cronie, anacrontab(5), run-parts(8), at(1); the jobs' times are left as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from guestctl.core.errors import GuestctlError
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.services import Service
from guestctl.detectors.system import System

# Debian's and SUSE's folder lie in Red Hat's, whose files are named after users. BSD's is /var/cron.
_SPOOLS = ("/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/var/spool/cron", "/etc/crontabs", "/var/cron/tabs")
_AT_SPOOLS = ("/var/spool/cron/atjobs", "/var/spool/atjobs", "/var/spool/at", "/var/at/jobs")
_PARTS = ("hourly", "daily", "weekly", "monthly", "yearly")
_ASSIGNMENT = re.compile(r"""["']?\w+["']?\s*=""")
# a queue's letter, a job's number, minutes since 1970
_AT_JOB = re.compile(r"[a-zA-Z=]([0-9a-f]{5})([0-9a-f]{8})")
_LEFTOVER = re.compile(r"\..*|.*(~|,v|\.(rpm(save|new|orig)|dpkg-\w+|sw.|cfsaved|bak|orig))")
_MAX_JOBS = 10_000


def cron(system: System) -> list[Service]:
    """A record of each job."""
    found: list[Service] = []
    for read in (_tables, _parts, _anacron, _at):
        try:
            found.extend(islice(read(system), _MAX_JOBS + 1))
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"services: cron: {error}")
    if len(found) > _MAX_JOBS:
        system.warnings.append(f"services: more than {_MAX_JOBS} jobs of cron")
    return found[:_MAX_JOBS]


def _tables(system: System) -> Iterator[Service]:
    paths = ["/etc/crontab"]
    for directory in ("/etc/cron.d", "/usr/local/etc/cron.d"):
        paths += [f"{directory}/{name}" for name in names_in(system, directory) if not _LEFTOVER.fullmatch(name)]
    for path in paths:
        yield from parse_crontab(text_of(system, path), path)
    for spool in _SPOOLS:
        for user in names_in(system, spool):
            path = f"{spool}/{user}"
            if not _LEFTOVER.fullmatch(user):
                yield from parse_crontab(text_of(system, path), path, user)


def parse_crontab(text: str, source: str, user: str | None = None) -> Iterator[Service]:
    """The jobs of a crontab; of one that is not `user`'s own the account is the word before the command."""
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#") or _ASSIGNMENT.match(line):
            continue
        times = 1 if line.startswith("@") else 5
        words = line.split(None, times if user else times + 1)
        if len(words) <= times + (user is None):
            continue
        yield _job(
            name=source.rpartition("/")[2],
            schedule=" ".join(words[:times]),
            command=words[-1],
            account=user or words[times],
            source=source,
        )


def _parts(system: System) -> Iterator[Service]:
    for period in _PARTS:
        for directory in (f"/etc/cron.{period}", f"/etc/periodic/{period}"):
            for name in names_in(system, directory):
                path = f"{directory}/{name}"
                if system.tree.is_file(path) and not _LEFTOVER.fullmatch(name):
                    runs = system.tree.stat(path).st_mode & 0o111 != 0
                    yield _job(name=name, schedule=f"@{period}", command=path, source=path, runs=runs)


def _anacron(system: System) -> Iterator[Service]:
    for line in text_of(system, "/etc/anacrontab").splitlines():
        words = line.split(None, 3)
        if len(words) == 4 and (words[0].isdecimal() or words[0].startswith("@")):
            schedule = words[0] if words[0].startswith("@") else f"every {words[0]} days"
            yield _job(name=words[2], schedule=schedule, command=words[3], source="/etc/anacrontab")


def _at(system: System) -> Iterator[Service]:
    from datetime import UTC, datetime

    for spool in _AT_SPOOLS:
        for name in names_in(system, spool):
            match = _AT_JOB.fullmatch(name)
            if match:
                # Past the year 9999 there is no such time.
                when = datetime.fromtimestamp(min(int(match[2], 16) * 60, 253402300799), UTC)
                uid = str(system.tree.stat(f"{spool}/{name}").st_uid)
                job = str(int(match[1], 16))
                yield _job(name=job, schedule=f"{when:%Y-%m-%dT%H:%MZ}", account=uid, source=f"{spool}/{name}")


def _job(
    *, name: str, schedule: str, command: str = "", account: str = "root", source: str, runs: bool = True
) -> Service:
    return Service(
        name=name,
        kind="cron",
        start="enabled" if runs else "disabled",
        command=command,
        account=account,
        source=source,
        schedule=schedule,
    )
