"""OpenRC, System V, upstart, runit, and cron's tables, on texts that distributions ship."""

from __future__ import annotations

from guestctl.detectors.linux.services import services
from guestctl.detectors.report.services import Service
from host_system import memory_system
from memory_filesystem import Link


def _named(files: dict[str, str | bytes | None]) -> dict[str, Service]:
    return {service.name: service for service in services(memory_system(files))}


def test_openrc() -> None:
    """Alpine 3.18: openssh and busybox-openrc."""
    found = _named(
        {
            "/sbin/openrc": "",
            "/etc/init.d/sshd": '#!/sbin/openrc-run\ndescription="OpenBSD Secure Shell server"\n',
            "/etc/init.d/crond": (
                '#!/sbin/openrc-run\n\nname="busybox $SVCNAME"\ncommand="/usr/sbin/$SVCNAME"\n'
                'pidfile="/var/run/$SVCNAME.pid"\n'
            ),
            "/etc/init.d/functions.sh": Link("../../lib/rc/sh/functions.sh"),
            "/etc/runlevels/default/sshd": Link("/etc/init.d/sshd"),
            "/etc/runlevels/boot/sshd": Link("/etc/init.d/sshd"),
        }
    )
    assert (found["sshd"].start, found["sshd"].wanted_by) == ("enabled", ["boot", "default"])
    assert found["sshd"].description == "OpenBSD Secure Shell server"
    assert (found["crond"].start, found["crond"].command) == ("disabled", "/usr/sbin/$SVCNAME")
    assert found.keys() == {"sshd", "crond"}


def test_red_hat_runlevels() -> None:
    """CentOS 6: links in /etc/rc.d, scripts in /etc/rc.d/init.d."""
    found = _named(
        {
            "/sbin/init": "",
            "/etc/inittab": "",
            "/etc/rc.d/init.d/crond": (
                "#!/bin/sh\n# chkconfig: 2345 90 60\n### BEGIN INIT INFO\n# Provides: crond crontab\n"
                "# Default-Start:  2345\n# Short-Description: run cron daemon\n### END INIT INFO\n"
            ),
            "/etc/rc.d/init.d/functions": "# -*-Shell-script-*-\n",
            "/etc/rc.d/init.d/netconsole": "#!/bin/bash\n",
            "/etc/init.d": Link("rc.d/init.d"),
            "/etc/rc.d/rc3.d/S90crond": Link("../init.d/crond"),
            "/etc/rc.d/rc1.d/K60crond": Link("../init.d/crond"),
            "/etc/rc.d/rc5.d/S90crond": Link("../init.d/crond"),
        }
    )
    assert (found["crond"].start, found["crond"].wanted_by) == ("enabled", ["3", "5"])
    assert found["crond"].description == "run cron daemon"
    assert found["netconsole"].start == "disabled"
    assert found.keys() == {"crond", "netconsole"}


def test_upstart() -> None:
    """Ubuntu 14.04: openssh-server and a job switched off by an override."""
    found = _named(
        {
            "/etc/init/ssh.conf": (
                '# ssh - OpenBSD Secure Shell server\ndescription\t"OpenSSH server"\n\n'
                "start on runlevel [2345]\nstop on runlevel [!2345]\n\nrespawn\n\nexec /usr/sbin/sshd -D\n"
            ).replace("\t", " "),
            "/etc/init/cron.conf": 'description "regular background program"\nstart on runlevel [2345]\nexec cron\n',
            "/etc/init/cron.override": "manual\n",
        }
    )
    assert (found["ssh"].start, found["ssh"].schedule) == ("enabled", "runlevel [2345]")
    assert (found["ssh"].description, found["ssh"].command) == ("OpenSSH server", "/usr/sbin/sshd -D")
    assert found["cron"].start == "manual"


def test_runit() -> None:
    found = _named(
        {
            "/etc/sv/sshd/run": "#!/bin/sh\nexec /usr/bin/sshd -D\n",
            "/etc/sv/dhcpcd/run": "#!/bin/sh\n",
            "/etc/sv/dhcpcd/down": "",
            "/etc/sv/acpid/run": "#!/bin/sh\n",
            "/etc/runit/runsvdir/default/sshd": Link("/etc/sv/sshd"),
            "/etc/runit/runsvdir/default/dhcpcd": Link("/etc/sv/dhcpcd"),
        }
    )
    assert {name: one.start for name, one in found.items()} == {
        "sshd": "enabled",
        "dhcpcd": "disabled",
        "acpid": "disabled",
    }


def test_cron() -> None:
    """Debian 12's crontab and mdadm's cron.d file; a user's own; cronie's anacrontab; a job of at."""
    found = services(
        memory_system(
            {
                "/etc/crontab": (
                    "SHELL=/bin/sh\n# Example of job definition:\n"
                    "17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly\n"
                ),
                "/etc/cron.d/mdadm": '57 0 * * 0 root if [ -x /usr/share/mdadm/checkarray ]; then :; fi\nMAILTO=""\n',
                "/etc/cron.d/.placeholder": "1 1 1 1 1 root never\n",
                "/etc/cron.d/old.dpkg-dist": "1 1 1 1 1 root never\n",
                "/etc/cron.daily/apt-compat": "#!/bin/sh\n",
                "/var/spool/cron/crontabs/ada": "@reboot /home/ada/start --now\n*/5 * * * * date >> log\n",
                "/var/spool/cron/bob": "0 4 * * mon-fri true\nnonsense\n",
                "/etc/anacrontab": (
                    "RANDOM_DELAY=45\n1\t5\tcron.daily\t\tnice run-parts cron.daily\n@monthly 45 cron.monthly run\n"
                ),
                "/var/spool/cron/atjobs/a0000301b2a3c4": "#!/bin/sh\n",
                "/var/spool/cron/atjobs/.SEQ": "3\n",
            }
        )
    )
    assert {service.kind for service in found} == {"cron"}
    assert [(one.name, one.schedule, one.account, one.command) for one in found] == [
        ("crontab", "17 * * * *", "root", "cd / && run-parts --report /etc/cron.hourly"),
        ("mdadm", "57 0 * * 0", "root", "if [ -x /usr/share/mdadm/checkarray ]; then :; fi"),
        ("ada", "@reboot", "ada", "/home/ada/start --now"),
        ("ada", "*/5 * * * *", "ada", "date >> log"),
        ("bob", "0 4 * * mon-fri", "bob", "true"),
        ("apt-compat", "@daily", "root", "/etc/cron.daily/apt-compat"),
        ("cron.daily", "every 1 days", "root", "nice run-parts cron.daily"),
        ("cron.monthly", "@monthly", "root", "run"),
        ("3", "2024-02-27T22:28Z", "0", ""),
    ]
