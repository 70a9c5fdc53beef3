"""GRUB 2: real configurations, its language, its environment block.

debian-12-grub.cfg is what grub-mkconfig of Debian 12 (grub-common 2.06-13+deb12u2) made for a root with two kernels.
Fedora's text is what its grub2-mkconfig writes, shortened.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from boot_guests import ESP_TYPE, memory_system
from conftest import Run
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.boot import boot
from guestctl.detectors.linux.boot.grub2 import commands, read_entries, script
from guestctl.detectors.linux.boot.grub2.environment import parse_environment
from guestctl.detectors.linux.boot.grub2.interpreter import Interpreter
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import BootEntry
from guestctl.detectors.system import System

_FUZZ_SECONDS = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 2
DEBIAN = (Path(__file__).resolve().parents[2] / "data/boot/debian-12-grub.cfg").read_text()
UUID = "6f1c2c0a-5d6e-4b6e-9d9c-3a0b8c1d2e3f"
DEBIAN_STUB = f"search.fs_uuid {UUID} root hd0,gpt2 \nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
FEDORA = """\
set pager=1
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
fi
insmod part_gpt
insmod xfs
search --no-floppy --fs-uuid --set=root 1111-boot
insmod part_gpt
insmod fat
search --no-floppy --fs-uuid --set=boot 2222-esp
if [ -z "${kernelopts}" ]; then
  set kernelopts="root=UUID=from-the-configuration ro "
fi
insmod blscfg
blscfg
if [ "$menu_auto_hide" ]; then
  set timeout=0
fi
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
        fwsetup
}
"""
MACHINE = "6ea2d7ab8f2b4b5c9f1b8a8d2c6a7e01"
BLS = """\
title Fedora Linux ({0}) 39 (Server Edition)
version {0}
linux /vmlinuz-{0}
initrd /initramfs-{0}.img $tuned_initrd
options $kernelopts $tuned_params
grub_users $grub_users
grub_class fedora
"""


def debian(configuration: str = DEBIAN, **files: str) -> System:
    """Debian as its installer lays it out: a stub on the EFI system partition, everything else on the root."""
    root = {"/boot/grub/grub.cfg": configuration, "/boot/efi": None, "/etc/fstab": "", **files}
    return memory_system(
        {"/dev/sda1": {"/EFI/debian/grub.cfg": DEBIAN_STUB}, "/dev/sda2": root},
        {"/": "/dev/sda2", "/boot/efi": "/dev/sda1"},
        types={"/dev/sda1": ESP_TYPE},
        specs={f"UUID={UUID}": "/dev/sda2"},
    )


def entries(system: System) -> list[BootEntry]:
    return read_entries(Places(system))


def default(system: System) -> BootEntry:
    (found,) = [entry for entry in entries(system) if entry.default]
    return found


def run_script(text: str, **files: str) -> Interpreter:
    """The state after a script on a root with `files`."""
    system = memory_system({"/dev/sda1": {"/grub.cfg": text, "/etc/fstab": "", **files}}, {"/": "/dev/sda1"})
    state = Interpreter(Places(system), "pc", commands.run)
    state.variables["root"] = "hd0,msdos1"
    state.start("/grub.cfg")
    return state


def test_debian() -> None:
    found = entries(debian())
    advanced = "Advanced options for Debian GNU/Linux"
    new, old = "6.1.0-56-cloud-amd64", "6.1.0-9-cloud-amd64"
    assert [(entry.title, entry.kernel, entry.default) for entry in found] == [
        ("Debian GNU/Linux", f"/boot/vmlinuz-{new}", True),
        (f"{advanced}>Debian GNU/Linux, with Linux {new}", f"/boot/vmlinuz-{new}", False),
        (f"{advanced}>Debian GNU/Linux, with Linux {new} (recovery mode)", f"/boot/vmlinuz-{new}", False),
        (f"{advanced}>Debian GNU/Linux, with Linux {old}", f"/boot/vmlinuz-{old}", False),
        (f"{advanced}>Debian GNU/Linux, with Linux {old} (recovery mode)", f"/boot/vmlinuz-{old}", False),
    ]
    assert found[0].command_line == "root=/dev/sda2 ro quiet"
    assert found[2].command_line == "root=/dev/sda2 ro single"
    assert found[0].initramfs == [f"/boot/initrd.img-{new}"]
    assert {entry.source for entry in found} == {"/boot/grub/grub.cfg"}


@pytest.mark.parametrize(
    ("choice", "title"),
    [
        ("0", "Debian GNU/Linux"),
        ("1>2", "Debian GNU/Linux, with Linux 6.1.0-9-cloud-amd64"),
        ("1", "Debian GNU/Linux, with Linux 6.1.0-56-cloud-amd64"),
        (f"gnulinux-advanced-{UUID}>gnulinux-6.1.0-9-cloud-amd64-advanced-{UUID}", "6.1.0-9-cloud-amd64"),
        (
            "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-9-cloud-amd64 (recovery mode)",
            "mode)",
        ),
        ("7", "Debian GNU/Linux"),
        ("no such entry", "Debian GNU/Linux"),
        ("1>9", "Debian GNU/Linux, with Linux 6.1.0-56-cloud-amd64"),
    ],
)
def test_default(choice: str, title: str) -> None:
    configured = DEBIAN.replace('set default="0"', f'set default="{choice}"')
    assert default(debian(configured)).title.endswith(title)


def test_grubenv(run: Run, tmp_path: Path) -> None:
    """GRUB_DEFAULT=saved, with the environment that grub-editenv writes; ``grub-reboot`` goes before it."""
    saved = DEBIAN.replace('set default="0"', 'set default="${saved_entry}"')
    block = tmp_path / "grubenv"
    run("grub-editenv", block, "create")
    run("grub-editenv", block, "set", "saved_entry=1>2", r"odd=a=b \ c")
    text = block.read_text()
    listed = dict(line.split("=", 1) for line in run("grub-editenv", block, "list").splitlines())
    assert parse_environment(text) == listed
    files = {"/boot/grub/grubenv": text}
    assert default(debian(saved, **files)).title.endswith("6.1.0-9-cloud-amd64")
    run("grub-editenv", block, "set", "next_entry=1>1")
    assert default(debian(saved, **{"/boot/grub/grubenv": block.read_text()})).title.endswith("(recovery mode)")
    assert parse_environment("saved_entry=0\n") == {}


def fedora(grubenv: str = "", **boot_files: str) -> System:
    """Fedora with /boot on a filesystem of its own, its stub on the EFI system partition."""
    stub = "search --no-floppy --fs-uuid --set=dev 1111-boot\nset prefix=($dev)/grub2\nexport $prefix\n"
    stub += "configfile $prefix/grub.cfg\n"
    boot_partition = {
        "/grub2/grub.cfg": FEDORA,
        "/grub2/grubenv": f"# GRUB Environment Block\n{grubenv}",
        "/efi": None,
        **{
            f"/loader/entries/{MACHINE}-{version}.conf": BLS.format(version)
            for version in ("6.5.6-300.fc39.x86_64", "6.5.12-300.fc39.x86_64", "0-rescue")
        },
        **boot_files,
    }
    return memory_system(
        {"/dev/sda1": {"/EFI/fedora/grub.cfg": stub}, "/dev/sda2": boot_partition, "/dev/sda3": {"/boot": None}},
        {"/": "/dev/sda3", "/boot": "/dev/sda2", "/boot/efi": "/dev/sda1"},
        types={"/dev/sda1": ESP_TYPE},
        specs={"UUID=1111-boot": "/dev/sda2", "UUID=2222-esp": "/dev/sda1"},
    )


def test_fedora() -> None:
    found = entries(fedora("kernelopts=root=UUID=3333 ro quiet\ntuned_params=isolcpus=1\n"))
    assert [(entry.kernel, entry.default) for entry in found] == [
        ("/boot/vmlinuz-6.5.12-300.fc39.x86_64", True),
        ("/boot/vmlinuz-6.5.6-300.fc39.x86_64", False),
        ("/boot/vmlinuz-0-rescue", False),
        (None, False),
    ]
    assert found[0].title == "Fedora Linux (6.5.12-300.fc39.x86_64) 39 (Server Edition)"
    assert found[0].command_line == "root=UUID=3333 ro quiet isolcpus=1"
    assert found[0].initramfs == ["/boot/initramfs-6.5.12-300.fc39.x86_64.img"]
    assert found[0].source == f"/boot/loader/entries/{MACHINE}-6.5.12-300.fc39.x86_64.conf"


def test_fedora_saved_entry() -> None:
    found = default(fedora(f"saved_entry={MACHINE}-6.5.6-300.fc39.x86_64\n"))
    assert found.kernel == "/boot/vmlinuz-6.5.6-300.fc39.x86_64"
    assert found.command_line == "root=UUID=from-the-configuration ro"


def test_kernel_of_another_device() -> None:
    """A root that is not mounted in the guest, and one that is not there."""
    text = "menuentry a { set root=hd0,gpt3\nlinux /vmlinuz a }\nmenuentry b { linux (hd7,gpt1)/vmlinuz }\n"
    system = memory_system(
        {"/dev/sda1": {"/boot/grub/grub.cfg": text, "/boot/vmlinuz": ""}, "/dev/sda3": {"/vmlinuz": ""}},
        {"/": "/dev/sda1"},
    )
    assert [entry.kernel for entry in entries(system)] == ["(/dev/sda3)/vmlinuz", "/boot/vmlinuz"]


def test_command_line_with_blanks() -> None:
    """A word with blanks is quoted, as the kernel wants it ("The kernel's command-line parameters")."""
    text = "menuentry a { linux /vmlinuz 'dyndbg=file a +p' quiet \"\" x }"
    (entry,) = entries(memory_system({"/dev/sda1": {"/boot/grub/grub.cfg": text}}, {"/": "/dev/sda1"}))
    assert entry.command_line.split(" quiet")[0] == '"dyndbg=file a +p"'


def test_xen() -> None:
    """20_linux_xen: the hypervisor is no kernel, and its modules are the kernel and the initramfs."""
    text = (
        "menuentry 'Debian GNU/Linux, with Xen hypervisor' --class xen {\n\tset root='hd0,msdos1'\n"
        "\tmultiboot2\t/boot/xen-4.17-amd64.gz placeholder  ${xen_rm_opts}\n"
        "\tmodule2\t/boot/vmlinuz-6.1.0-10-amd64 placeholder root=/dev/sda1 ro\n"
        "\tmodule2\t--nounzip   /boot/initrd.img-6.1.0-10-amd64\n}\n"
    )
    system = memory_system({"/dev/sda1": {"/boot/grub/grub.cfg": text}}, {"/": "/dev/sda1"})
    (entry,) = entries(system)
    assert (entry.kernel, entry.initramfs) == ("/boot/vmlinuz-6.1.0-10-amd64", ["/boot/initrd.img-6.1.0-10-amd64"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1\nset b=$a${a}2", {"b": "112"}),
        ("a='$x \"y\"'", {"a": '$x "y"'}),
        ('a="x\\"y\\$z\\\\"', {"a": 'x"y$z\\'}),
        ("a=x\\ y", {"a": "x y"}),
        ("b='1 2'; for i in $b 3; do set a=$a-$i; done", {"a": "-1-2-3"}),
        ('b=\'1 2\'; for i in "$b" 3; do set a="$a-$i"; done', {"a": "-1 2-3"}),
        ("b=' 1 2 '; for i in x${b}y; do set a=\"$a,$i\"; done", {"a": ",x,1,2,y"}),
        ("function f { set a=$2$#$1; return; set a=no; }; f x y", {"a": "y2x"}),
        ("while [ $n != 111 ]; do n=1$n; done", {"n": "111"}),
        ("until [ x$n = x11 ]; do n=1$n; if [ $n = 1 ]; then break; fi; done", {"n": "1"}),
        ("if false; then a=1; elif true; then a=2; else a=3; fi # a=4", {"a": "2"}),
        ("if ! false; then a=1; fi; if ! ! true; then b=1; fi", {"a": "1", "b": "1"}),
        ("if [ -f /yes -a ! -f /no -o 1 -gt 2 ]; then a=1; fi", {"a": "1"}),
        ("if [ ( a = b -o -d /dir ) -a -n x ]; then a=1; fi", {"a": "1"}),
        ('if [ -z "$x" ]\nthen\n a=1\nfi', {"a": "1"}),
        ("a=1; unset a; b=x$a", {"b": "x"}),
        ("search --file /yes --set=a; search.file /no b", {"a": "/dev/sda1"}),
        ("source /more; . /more", {"a": "11"}),
    ],
)
def test_language(text: str, expected: dict[str, str], run: Run, tmp_path: Path) -> None:
    """Values worked out by hand from GRUB's manual; its own checker takes the syntax."""
    (tmp_path / "grub.cfg").write_text(text)
    run("grub-script-check", tmp_path / "grub.cfg")
    variables = run_script(text, **{"/yes": "1", "/dir/x": "", "/more": "a=1$a\n"}).variables
    assert {name: variables.get(name) for name in expected} == expected
    assert "/no" not in variables


@pytest.mark.parametrize(
    "text", ["if true; then", "menuentry x {", "a='x", 'a="x', "}", "fi", "for in x", "function { }"]
)
def test_syntax_errors(text: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "grub.cfg").write_text(text + "\n")
    with pytest.raises(AssertionError):
        run("grub-script-check", tmp_path / "grub.cfg")
    with pytest.raises(InvalidFormat, match="GRUB configuration"):
        script.parse(text + "\n")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("while true; do a=1; done", "commands"),
        ("function f { f; }; f", "levels"),
        ("a=xx; while true; do a=$a$a; done", "value"),
        ("source /grub.cfg; source /grub.cfg", "levels"),
        ("while true; do load_env -f /grub.cfg; done #" + "x" * 1000, "characters"),
        ("while true; do menuentry x { true; }; done", "entries"),
        ("if true; then " * 100 + "fi; " * 100, "levels"),
        ("while true; do search --label x; done", "commands"),
        ("[ " + "( " * 300 + "]", "words"),
        ("menuentry a { " * 40 + "}" * 40, "levels"),
    ],
)
def test_limits(text: str, limit: str) -> None:
    with pytest.raises(InvalidFormat, match=limit):
        run_script(text)


def test_hostile_configuration_is_a_warning() -> None:
    system = debian("while true; do a=1; done")
    found = boot(system)
    assert found.entries == [] and found.kernel is None
    assert any("more than" in warning for warning in system.warnings)


def test_mutants() -> None:
    """Damaged configurations end in a menu or a warning, soon."""
    generator = random.Random(3)
    end = time.monotonic() + _FUZZ_SECONDS
    warned = 0
    pieces = [
        "{",
        "}",
        "'",
        '"',
        "$",
        "\\",
        ";",
        "\n",
        "if ",
        "fi",
        "while true; do ",
        "done",
        "menuentry ",
        "(",
        ">",
        "#",
    ]
    while time.monotonic() < end:
        base = generator.choice((DEBIAN, FEDORA + DEBIAN_STUB))
        for _ in range(generator.randrange(1, 6)):
            at = generator.randrange(len(base))
            base = base[:at] + generator.choice(pieces) + base[at + generator.randrange(20) :]
        started = time.process_time()
        system = debian(base)
        entries(system)
        warned += bool(system.warnings)
        assert time.process_time() - started < 5
    assert warned
