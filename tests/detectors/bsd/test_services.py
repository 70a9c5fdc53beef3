"""What BSD guests start: scripts and configuration as FreeBSD, NetBSD and OpenBSD ship them, shortened."""

from __future__ import annotations

import pytest

from guestctl.core.types import GuestType
from guestctl.detectors.views import view
from host_system import memory_system

Files = dict[str, str | bytes | None]

# FreeBSD's libexec/rc/rc.conf, rc.d/cron and rc.d/sshd, and a script as ports have it
FREEBSD: Files = {
    "/etc/defaults/rc.conf": "#!/bin/sh\n\nsyslogd_enable=\"YES\"\t\t# Run syslog daemon (or NO).\n"
    "syslogd_flags=\"-s\"\n"
    'sshd_enable="NO"\t\t# Enable sshd\ncron_enable="YES"\t\t# Run the periodic job daemon.\ncron_flags=""\n'
    'local_startup="/usr/local/etc/rc.d" # startup script dirs.\nrc_conf_files="/etc/rc.conf /etc/rc.conf.local"\n'
    "if [ -z \"${source_rc_confs_defined}\" ]; then\n\tsource_rc_confs_defined=yes\n\tsource_rc_confs() {\n"
    "\t\tlocal i sourced_files\n\t\tfor i in ${rc_conf_files}; do\n\t\t\tcase ${sourced_files} in\n"
    "\t\t\t*:$i:*)\n\t\t\t\t;;\n"
    '\t\t\t*)\n\t\t\t\tsourced_files="${sourced_files}:$i:"\n\t\t\t\tif [ -r $i ]; then\n\t\t\t\t\t. $i\n\t\t\t\tfi\n'
    "\t\t\t\t;;\n\t\t\tesac\n\t\tdone\n\t}\nfi\n",
    "/etc/rc.conf": 'hostname="beastie"\nsshd_enable="YES" # remote\nnginx_enable=YES\nold_enable=YES\n'
    'cron_flags="-J 15"\n',
    "/etc/rc.conf.d/syslogd": 'syslogd_flags="-ss"\n',
    "/usr/local/etc/rc.conf.d/redis/local": "redis_enable=YES\n",
    "/etc/rc.d/cron": '#!/bin/sh\n#\n#\n\n# PROVIDE: cron\n# REQUIRE: LOGIN FILESYSTEMS\n# KEYWORD: shutdown\n\n'
    '. /etc/rc.subr\n\n'
    'name="cron"\ndesc="Daemon to execute scheduled commands"\nrcvar="cron_enable"\ncommand="/usr/sbin/${name}"\n'
    'pidfile="/var/run/${name}.pid"\n\nload_rc_config $name\nif checkyesno cron_dst\nthen\n'
    '\tcron_flags="$cron_flags -s"\nfi\nrun_rc_command "$1"\n',
    "/etc/rc.d/sshd": '#!/bin/sh\n. /etc/rc.subr\n\nname="sshd"\ndesc="Secure Shell Daemon"\nrcvar="sshd_enable"\n'
    'command="/usr/sbin/${name}"\n: ${sshd_rsa_enable:="yes"}\nsshd_keygen_alg()\n{\n\tlocal alg=$1\n'
    '\tlocal ALG="$(echo $alg | tr a-z A-Z)"\n\tcase $alg in\n\trsa|dsa)\n\t\tname=wrong\n\t\t;;\n\tesac\n}\n'
    'load_rc_config $name\nrun_rc_command "$1"\n',
    "/etc/rc.d/syslogd": 'name=syslogd\nrcvar="syslogd_enable"\ncommand="/usr/sbin/${name}"\n',
    "/etc/rc.d/hostname": '# PROVIDE: hostname\n# KEYWORD: nojail\nname="hostname"\nstart_cmd="hostname_start"\n',
    "/etc/rc.d/fsck": 'name="fsck"\nrcvar=`set_rcvar`\n',
    "/etc/rc.d/bgfsck": '# KEYWORD: nojail nostart\nname="background-fsck"\nrcvar="background_fsck"\n',
    "/etc/rc.d/LOGIN": "# PROVIDE: LOGIN\n# REQUIRE: DAEMON\n#\tThis is a dummy dependency\n",
    "/usr/local/etc/rc.d/nginx": 'name="nginx"\nrcvar=nginx_enable\nload_rc_config "$name"\n: ${nginx_enable:="NO"}\n'
    'command="/usr/local/sbin/nginx"\n',
    "/usr/local/etc/rc.d/dbus": 'name="dbus"\nrcvar="${name}_enable"\nload_rc_config ${name}\n: ${dbus_enable="YES"}\n',
    "/usr/local/etc/rc.d/redis": 'name="redis"\nrcvar="${name}_enable"\n: ${redis_enable="NO"}\n'
    ': ${redis_user="redis"}\n',
    "/usr/local/etc/rc.d/old": 'name="old"\nrcvar=old_enable\nold_enable="NO"\nload_rc_config $name\n'
    'command=/bin/old\n',
    "/etc/crontab": "SHELL=/bin/sh\n#minute\thour\n*/5\t*\t*\t*\t*\troot\t/usr/libexec/atrun\n"
    "1\t3\t*\t*\t*\troot\tperiodic daily\n",
    "/var/cron/tabs/ada": "# DO NOT EDIT\n@daily\tmake -C src\n",
    "/etc/defaults/periodic.conf": 'daily_clean_disks_enable="NO"\t# Delete files daily\n'
    'daily_backup_passwd_enable="YES"\nif [ $(sysctl -n security.jail.jailed) = 0 ]; then\n'
    '        daily_backup_gpart_enable="YES"\nfi\nsecurity_status_chksetuid_enable="YES"\n',
    "/etc/periodic.conf": "daily_clean_disks_enable=yes\n",
    "/etc/periodic/daily/100.clean-disks": 'case "$daily_clean_disks_enable" in\n    [Yy][Ee][Ss])\n\t;;\nesac\n',
    "/etc/periodic/daily/200.backup-passwd": 'case "${daily_backup_passwd_enable}" in\nesac\n',
    "/etc/periodic/daily/221.backup-gpart": 'case "$daily_backup_gpart_enable" in\nesac\n',
    "/etc/periodic/security/100.chksetuid": "if check_yesno_period security_status_chksetuid_enable\nthen\n:\nfi\n",
    "/usr/local/etc/periodic/weekly/400.status-pkg": 'case "$weekly_status_pkg_enable" in\nesac\n',
}  # fmt: skip


def _starts(files: Files, family: GuestType) -> dict[str, tuple[str, str, str]]:
    system = memory_system(files, family)
    found = {one.name: (one.start, one.command, one.account) for one in view("services", system)}
    assert not system.warnings
    return found


def test_freebsd() -> None:
    assert _starts(FREEBSD, GuestType.FREEBSD) == {
        "cron": ("enabled", "/usr/sbin/cron -J 15", ""),
        "sshd": ("enabled", "/usr/sbin/sshd", ""),
        "syslogd": ("enabled", "/usr/sbin/syslogd -ss", ""),
        "hostname": ("static", "", ""),
        "fsck": ("disabled", "", ""),
        "background-fsck": ("manual", "", ""),
        "nginx": ("enabled", "/usr/local/sbin/nginx", ""),
        "dbus": ("enabled", "", ""),
        "redis": ("enabled", "", "redis"),
        "old": ("enabled", "/bin/old", ""),
        "crontab": ("enabled", "periodic daily", "root"),
        "ada": ("enabled", "make -C src", "ada"),
        "100.clean-disks": ("enabled", "/etc/periodic/daily/100.clean-disks", "root"),
        "200.backup-passwd": ("enabled", "/etc/periodic/daily/200.backup-passwd", "root"),
        "221.backup-gpart": ("unknown", "/etc/periodic/daily/221.backup-gpart", "root"),
        "100.chksetuid": ("enabled", "/etc/periodic/security/100.chksetuid", "root"),
        "400.status-pkg": ("disabled", "/usr/local/etc/periodic/weekly/400.status-pkg", "root"),
    }


def test_netbsd() -> None:
    files: Files = {  # etc/defaults/rc.conf and etc/rc.d/sshd
        "/etc/defaults/rc.conf": "inetd=YES\t\tinetd_flags=\"-l\"\t# -l logs libwrap\nsshd=NO\t\t\tsshd_flags=\"\"\n"
        "ntpd=NO\t\t\tntpd_flags=\"\"\t\t# see below\n",
        "/etc/rc.conf": "if [ -r /etc/defaults/rc.conf ]; then\n\t. /etc/defaults/rc.conf\nfi\n"
        "rc_configured=YES\nsshd=YES\n",
        "/etc/rc.conf.d/ntpd": "ntpd=yes\n",
        "/etc/rc.d/sshd": '#!/bin/sh\n\n# PROVIDE: sshd\n\n$_rc_subr_loaded . /etc/rc.subr\n\nname="sshd"\n'
        'rcvar=$name\n'
        'command="/usr/sbin/${name}"\n\nsshd_motd()\n{\n(\n\tcat >> $T << _EOF\n-- don\'t\n_EOF\n)\n}\n',
        "/etc/rc.d/inetd": 'name="inetd"\nrcvar=$name\ncommand="/usr/sbin/${name}"\n',
        "/etc/rc.d/ntpd": 'name="ntpd"\nrcvar=$name\ncommand="/usr/sbin/${name}"\n',
        "/etc/rc.d/named": 'name="named"\nrcvar=$name\n',
    }  # fmt: skip
    assert _starts(files, GuestType.NETBSD) == {
        "sshd": ("enabled", "/usr/sbin/sshd", ""),
        "inetd": ("enabled", "/usr/sbin/inetd -l", ""),
        "ntpd": ("enabled", "/usr/sbin/ntpd", ""),
        "named": ("disabled", "", ""),
    }


def test_openbsd() -> None:
    files: Files = {  # etc/rc.conf and etc/rc.d/sshd, with what rcctl(8) writes
        "/etc/rc.conf": "#!/bin/sh -\nsshd_flags=\"\"\t\t# for normal use: \"\"\nhttpd_flags=NO\t\t# for normal use\n"
        "ntpd_flags=NO\t\t# for normal use: \"\"\npkg_scripts=\n",
        "/etc/rc.conf.local": "httpd_flags=\nntpd_flags=-s\npkg_scripts=postgresql nginx\nnginx_flags=-u\n"
        "smtpd_flags=NO\n",
        "/etc/rc.d/rc.subr": "_rc_err() {\n}\n",
        "/etc/rc.d/sshd": '#!/bin/ksh\n#\n# $OpenBSD: sshd,v 1.5 2020/01/22 13:14:51 sthen Exp $\n\n'
        'daemon="/usr/sbin/sshd"\n\n. /etc/rc.d/rc.subr\n\npexp="sshd: \\[listener\\].*"\n\nrc_reload() {\n'
        '\t${daemon} ${daemon_flags} -t && pkill -HUP -xf "${pexp}"\n}\n\nrc_cmd $1\n',
        "/etc/rc.d/httpd": 'daemon="/usr/sbin/httpd"\n',
        "/etc/rc.d/ntpd": 'daemon="/usr/sbin/ntpd"\n',
        "/etc/rc.d/smtpd": 'daemon="/usr/sbin/smtpd"\n',
        "/etc/rc.d/postgresql": 'daemon="/usr/local/bin/pg_ctl"\ndaemon_flags="-D /var/postgresql/data"\n'
        'daemon_user="_postgresql"\n',
        "/etc/rc.d/nginx": 'daemon="/usr/local/sbin/nginx"\n',
        "/etc/rc.d/redis": 'daemon="/usr/local/sbin/redis-server"\n',
        "/var/cron/tabs/root": "30\t1\t*\t*\t*\t/bin/sh /etc/daily\n",
    }  # fmt: skip
    found = _starts(files, GuestType.OPENBSD)
    assert found.pop("root") == ("enabled", "/bin/sh /etc/daily", "root")
    assert found == {
        "sshd": ("enabled", "/usr/sbin/sshd", ""),
        "httpd": ("enabled", "/usr/sbin/httpd", ""),
        "ntpd": ("enabled", "/usr/sbin/ntpd -s", ""),
        "smtpd": ("disabled", "/usr/sbin/smtpd", ""),
        "nginx": ("enabled", "/usr/local/sbin/nginx -u", ""),
        "postgresql": ("enabled", "/usr/local/bin/pg_ctl -D /var/postgresql/data", "_postgresql"),
        "redis": ("disabled", "/usr/local/sbin/redis-server", ""),
    }


@pytest.mark.parametrize("family", [GuestType.FREEBSD, GuestType.NETBSD, GuestType.OPENBSD, GuestType.DRAGONFLY])
def test_nothing(family: GuestType) -> None:
    assert _starts({"/etc/rc.d": None}, family) == {}
