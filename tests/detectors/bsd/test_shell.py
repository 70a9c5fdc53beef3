"""Assignments beside ``sh``, which sources the same text and prints the variables."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from guestctl.detectors.bsd.shell import assigned

# Lines of FreeBSD's, NetBSD's and OpenBSD's rc.conf and rc.d scripts, and what POSIX allows besides.
TEXTS = [
    'rc_startmsgs="YES" \t# Show "Starting foo:" messages at boot\nfsck_y_flags="-T ffs:-R -T ufs:-R"\t# more\n',
    'savecore=YES\t\tsavecore_flags="-z"\nypbind=NO\t\typbind_flags=""\nshlib_dirs=\t\t\t# extra\npf=YES\t# Packet\n',
    'name="sshd"\nrcvar=$name\ncommand="/usr/sbin/${name}"\npidfile="/var/run/${name}.pid"\n',
    'a=\'single " $x\' b="double \' \\$x \\\\ \\n \\"" c=esc\\ aped\\#x d=a#b e=\n',
    'long="one \\\n  two" next=on\\\ne\nlines="a\nb"\n',
    'x=1; y=2;z=3\nexport u=4 v\nreadonly w="5 6"\n',
    'a=1 b=$a c="$b$a"\na=2\n',
    ": ${nginx_enable:=\"NO\"}\n: ${f=one two} ${g:='x y'} ${h:=}\nx_enable=YES\n: ${x_enable:=NO}\n",
    "set_=1\nunset set_\nb=${set_-none} c=${x:-default} d=${x:+more} e=1 f=${e:+more}\n",
    "a=1 true\nb=2 >/dev/null\nc=3 2>&1 </dev/null\n(d=4)\ne=5 | cat\n:\n",
    "for i in a b; do :; done\ncase x in a) ;; (b) ;; esac\nafter=1\nf() { inner=2; }\ng()\n{\n inner=3\n}\nlast=2\n",
    'a=1\nexit_=0\nb="unclosed\n',
    "a=1\ncat <<EOF\na=2\nEOF\n",
    "a=1\n#a=2\n # b=3\nc=4 # d=5\n\te=6\n1a=7\nA_b9=8\n",
    "\\\na=1\\\n2\nb=\"$\" c=$ d=a$ e='$'\n",
    'a="#no" b=x"y"\'z\'w c=""\'\'\n',
    "a=1 && :\n: || b=2\n",
    "a=1 :\nb=1 unset c\nd=1 unset d\ne=1 true\nf=1 export g=2\n",
    "a=YES\r\nb=x\x0by\fz c=\u00a0\u2028\x85 d=1\n",
    # the end of OpenBSD's etc/rc.conf 1.172
    'spamd_flags=NO\t\t# for normal use: "" and see spamd(8)\npf=YES\t\t\t# Packet filter / NAT\npkg_scripts=\n\n'
    'local_rcconf="/etc/rc.conf.local"\n\nunset inetd_flags rwhod_flags portmap_flags\n\n'
    "[ -f ${local_rcconf} ] && . ${local_rcconf} # Do not edit this line\n\n"
    'if [  X"${spamd_flags}" = X"NO" -o X"${spamd_black}" != X"NO" ]; then\n\tspamlogd_flags=NO\nfi\n\n'
    ': ${inetd_flags=$([ X"${inetd-YES}" = XYES ] || echo NO)}\n'
    ': ${ypbind_flags=$([ X"`domainname`" != X"" -a -d /var/yp/binding ] || echo NO)}\n'
    ": ${sndiod_flags=${aucat_flags-}}\nlast=1\n",
    # the end of FreeBSD's libexec/rc/rc.conf
    'if [ -z "${source_rc_confs_defined}" ]; then\n\tsource_rc_confs_defined=yes\n\tsource_rc_confs() {\n'
    "\t\tlocal i sourced_files\n\t\tfor i in ${rc_conf_files}; do\n\t\t\tcase ${sourced_files} in\n"
    '\t\t\t*:$i:*)\n\t\t\t\t;;\n\t\t\t*)\n\t\t\t\tsourced_files="${sourced_files}:$i:"\n'
    "\t\t\t\tif [ -r $i ]; then\n\t\t\t\t\t. $i\n\t\t\t\tfi\n\t\t\t\t;;\n\t\t\tesac\n\t\tdone\n\t}\nfi\nlast=1\n",
]


def _sh(text: str, folder: Path) -> dict[str, str]:
    """What sh has after the text; lines that it did not come to are not there."""
    path = folder / "rc.conf"
    path.write_bytes(text.encode())
    names = [name for name in assigned(text) if name.isidentifier()]
    asked = "".join(f'printf "%s\\0" "${{{name}-}}";' for name in names)
    done = subprocess.run(
        ["sh", "-c", f"trap '{asked}' EXIT; . {path} >/dev/null 2>&1"],
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
    )
    return dict(zip(names, done.stdout.decode("utf-8", "surrogateescape").split("\0"), strict=False))


@pytest.mark.parametrize("text", TEXTS)
def test_beside_sh(tmp_path: Path, text: str) -> None:
    if not shutil.which("sh"):
        pytest.skip("needs sh")
    found = assigned(text)
    truth = _sh(text, tmp_path)
    assert {name: value for name, value in found.items() if value is not None} == {
        name: truth[name] for name, value in found.items() if value is not None
    }
    assert any(found.values())


def test_unknown() -> None:
    found = assigned(
        'a=$(echo "x )") b=`date`x c="$(a)" d=$((1+1)) e=$1 f=${x##*/} g=~/x h=$PATH\n'
        "i=1; if true; then i=2; fi\n[ -f /x ] && j=1\nj2=3 j3=4 || k=1\nf() { j2=1; }\nf2()\n(\nj2=1\n)\n"
        "{ l=1; }\nm=1\n"
    )
    assert found == dict.fromkeys("abcdefgh") | {
        "i": None,
        "j": None,
        "j2": "3",
        "j3": "4",
        "k": None,
        "l": None,
        "m": "1",
    }


def test_before() -> None:
    assert assigned("b=$a; : ${a:=2} ${c:=3}", {"a": "1"}) == {"a": "1", "b": "1", "c": "3"}


def test_costs() -> None:
    """Values that double, and texts that invite to look back, take bounded memory and time."""
    doubling = "a=xxxxxxxx\n" + "a=$a$a\n" * 100
    assert assigned(doubling)["a"] is None
    start = time.process_time()
    many = "a=" + "x" * 16000 + "\n" + "".join(f"v{number}=$a\n" for number in range(20_000))
    assert sum(len(value or "") for value in assigned(many).values()) <= 5 << 20
    for text in (
        "a=b " * 200_000,
        "${" * 300_000,
        "x=${" + "$" * 500_000,
        '"' * 500_001,
        "$(" * 300_000,
        "(" * 500_000,
        "\\\n" * 300_000,
        "{ \n" * 300_000,
        'a="' + "$a" * 200_000 + '"',
        "`" * 500_001,
        "if " * 200_000,
        "'" * 500_001,
    ):
        assigned(text)
    assert time.process_time() - start < 20


def test_mutations(tmp_path: Path) -> None:
    """Where sh and this reader both come to a value, it is the same one."""
    if not shutil.which("sh"):
        pytest.skip("needs sh")
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    number = compared = 0
    safe = "ab=12 \t\n\"'\\$#;{}:-+"  # no command but the words themselves, and nothing that writes
    while time.monotonic() < end:
        chance = random.Random(number)
        number += 1
        text = chance.choice(TEXTS[:-2])  # not those that source others
        for _ in range(chance.choice((1, 2, 5))):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(safe) * chance.choice((0, 1)) + text[at + chance.choice((0, 1)) :]
        text = re.sub("[<>]", "", text)
        found = {name: value for name, value in assigned(text).items() if value is not None}
        if subprocess.run(["sh", "-n"], input=text.encode(), capture_output=True).returncode:
            continue  # what is no shell ends here and there at another place
        truth = _sh(text, tmp_path)
        assert {name: truth.get(name) for name in found} == found, (number - 1, text)
        compared += len(found)
    assert compared > 100
