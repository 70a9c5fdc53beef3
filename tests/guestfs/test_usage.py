"""How programs use the handle: the examples of the binding's manual, Nova, hyper2kvm and virt-manager; and misuse."""

from __future__ import annotations

import gc
import inspect
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guestctl import guestfs
from guestctl.guestfs.refused import REFUSED

_DEMO = Path(__file__).parents[1] / "data/debian-12.qcow2"
_EXAMPLES = Path("/usr/share/doc/python3-guestfs/examples")
_FUZZ_SECONDS = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))


@pytest.fixture
def handle() -> Iterator[guestfs.GuestFS]:
    """The demo guest, mounted."""
    with _opened() as opened:
        yield opened


def _opened() -> guestfs.GuestFS:
    opened = guestfs.GuestFS(python_return_dict=True)
    opened.add_drive_ro(str(_DEMO))
    opened.launch()
    opened.mount_ro("/dev/sda2", "/")
    return opened


# The examples of guestfs-python(3)


def _example(name: str) -> Path:
    if not (_EXAMPLES / name).exists():
        pytest.skip("needs the documentation of python3-guestfs")
    return _EXAMPLES / name


def _run_on_ours(tmp_path: Path, example: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "guestfs.py").write_text("from guestctl.guestfs import *\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    argv: list[str | Path] = [sys.executable, example, *words]
    return subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_the_manual_s_inspection(tmp_path: Path) -> None:
    done = _run_on_ours(tmp_path, _example("inspect_vm.py"), _DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Distro:       debian" in done.stdout


@pytest.mark.long
def test_the_manual_s_inspection_beside_libguestfs(tmp_path: Path, emulated: dict[str, str]) -> None:
    argv: list[str | Path] = ["/usr/bin/python3", _example("inspect_vm.py"), _DEMO]
    theirs = subprocess.run(argv, env=os.environ | emulated, capture_output=True, text=True)
    ours = _run_on_ours(tmp_path, _example("inspect_vm.py"), _DEMO)
    assert theirs.returncode == 0, theirs.stderr
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)


def test_the_manual_s_new_disk_ends_where_writing_begins(tmp_path: Path) -> None:
    done = _run_on_ours(tmp_path, _example("create_disk.py"))
    assert done.returncode == 1
    assert "\nNotImplementedError: part_disk: not supported: " in done.stderr
    assert (tmp_path / "disk.img").stat().st_size == 512 << 20


# Programs


def test_as_nova_does() -> None:
    """nova.virt.disk.vfs.guestfs: pairs, not dicts; what follows a failed call is the teardown."""
    g = guestfs.GuestFS(python_return_dict=False, close_on_exit=False)
    g.set_backend_settings(["force_tcg"])
    g.add_drive_opts(str(_DEMO), format="qcow2")
    g.launch()
    (root,) = g.inspect_os()
    for path, device in sorted(g.inspect_get_mountpoints(root), key=lambda pair: len(pair[0])):
        g.mount_options("ro", device, path)
    assert g.read_file("/etc/passwd").startswith(b"root:")
    assert g.stat("/etc")["mode"] & 0o777 == 0o755
    with pytest.raises(RuntimeError, match="No such file or directory"):
        g.stat("/some/file")
    for name, arguments in (("write", ("/x", b"")), ("mkdir_p", ("/x",)), ("aug_init", ("/", 0))):
        with pytest.raises(RuntimeError, match=f"^{name}: not supported"):
            getattr(g, name)(*arguments)
    assert g.vfs_type(root) == "ext4"
    g.shutdown()
    g.close()


def test_as_hyper2kvm_does(tmp_path: Path) -> None:
    g = guestfs.GuestFS(python_return_dict=True)
    g.add_drive_opts(str(_DEMO), readonly=True)
    g.launch()
    for root in g.inspect_os():
        assert (g.inspect_get_type(root), g.inspect_get_distro(root)) == ("linux", "debian")
        mountpoints = g.inspect_get_mountpoints(root)
        for path in sorted(mountpoints, key=len):
            g.mount_ro(mountpoints[path], path)
        assert g.is_dir("/etc") and g.is_file("/etc/fstab") and g.exists("/etc") and not g.exists("/none")
        assert "fstab" in g.ls("/etc")
        assert "passwd" in g.find("/etc")
        assert g.cat("/etc/fstab") == g.read_file("/etc/fstab").decode()
        g.download("/etc/fstab", str(tmp_path / "fstab"))
        assert (tmp_path / "fstab").read_text() == g.cat("/etc/fstab")
        g.umount_all()
        assert g.mountpoints() == {}
    g.shutdown()
    g.close()


def test_as_virt_manager_does() -> None:
    g = guestfs.GuestFS(close_on_exit=False)
    g.add_drive_opts(str(_DEMO), readonly=True)
    g.launch()
    (root,) = g.inspect_os()
    assert (g.inspect_get_type(root), g.inspect_get_distro(root)) == ("linux", "debian")
    assert (g.inspect_get_major_version(root), g.inspect_get_package_format(root)) == (12, "deb")
    for path, device in sorted(g.inspect_get_mountpoints(root), key=lambda pair: len(pair[0])):
        g.mount_ro(device, path)
    assert isinstance(g.inspect_get_icon(root, favicon=False, highquality=True), bytes)
    applications = g.inspect_list_applications2(root)
    assert {"app2_name", "app2_version", "app2_release", "app2_epoch"} <= applications[0].keys()
    g.umount_all()
    g.close()


# Threads, processes and ends


def test_one_handle_in_many_threads(handle: guestfs.GuestFS) -> None:
    expected = handle.find("/etc"), handle.checksum("sha256", "/etc/passwd")
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append((handle.find("/etc"), handle.checksum("sha256", "/etc/passwd"))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_close_while_others_call(handle: guestfs.GuestFS) -> None:
    failures: list[type] = []

    def _call() -> None:
        try:
            while True:
                handle.find("/etc")
        except (ValueError, RuntimeError, OSError) as error:
            failures.append(type(error))

    threads = [threading.Thread(target=_call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    handle.close()
    for thread in threads:
        thread.join(10)
    assert failures == [guestfs.ClosedHandle] * 4


def _open_files() -> set[str]:
    paths = []
    for name in os.listdir("/proc/self/fd"):
        try:
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return {path for path in paths if path.endswith(_DEMO.name)}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_handle_that_is_forgotten_closes_its_files() -> None:
    opened = _opened()
    assert _open_files()
    del opened
    gc.collect()
    assert not _open_files()


def test_two_handles_on_one_image(handle: guestfs.GuestFS) -> None:
    with _opened() as other:
        assert other.ls("/etc") == handle.ls("/etc")
    assert handle.cat("/etc/passwd").startswith("root:")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_reads_and_closes_without_harm(handle: guestfs.GuestFS) -> None:
    expected = handle.checksum("sha256", "/etc/passwd")
    child = os.fork()
    if not child:
        try:
            same = handle.checksum("sha256", "/etc/passwd") == expected
            handle.close()
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert handle.checksum("sha256", "/etc/passwd") == expected


def test_what_callbacks_do_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    """As libguestfs's binding: what a callback raises is printed, and the call goes on."""
    g = guestfs.GuestFS()
    g.set_event_callback(lambda *_: dict[str, int]()["nothing"], guestfs.EVENT_ENTER)
    assert g.get_memsize() == 1280
    g.set_event_callback(lambda *_: g.nr_devices(), guestfs.EVENT_ENTER)
    with pytest.raises(guestfs.GuestFSError, match="call launch before"):
        g.list_devices()
    g.close()
    assert "KeyError: 'nothing'" in capfd.readouterr().err


def test_a_domain_whose_xml_is_none() -> None:
    class Domain:
        def XMLDesc(self, flags: int) -> str:
            return "<domain"

    with guestfs.GuestFS() as g, pytest.raises(guestfs.GuestFSError, match="add_libvirt_dom: the domain's XML: "):
        g.add_libvirt_dom(Domain())


def test_the_end_of_a_handle() -> None:
    """As libguestfs 1.48: the trace of the close, then the event, and no second close."""
    heard = []
    g = guestfs.GuestFS()
    g.set_trace(True)
    g.set_event_callback(lambda event, _, text, numbers: heard.append((event, text)), guestfs.EVENT_ALL)
    g.close()
    assert heard == [(guestfs.EVENT_TRACE, "close"), (guestfs.EVENT_CLOSE, "")]
    with pytest.raises(guestfs.ClosedHandle):
        g.close()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("set_memsize", -1, "too small value for memsize"),
        ("set_smp", 0, "invalid smp parameter: 0"),
        ("set_smp", 256, "unsupported number of smp vcpus: 256"),
        ("set_identifier", "a b!", "identifier must contain only"),
    ],
)
def test_settings_that_libguestfs_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(guestfs.GuestFSError, match=message):
        getattr(guestfs.GuestFS(), name)(value)


# Bad input


@pytest.mark.parametrize("kind", ["garbage", "empty", "truncated", "mutated"])
def test_images_that_are_none(kind: str, tmp_path: Path) -> None:
    rng = random.Random(kind)
    demo = _DEMO.read_bytes()
    image = tmp_path / "image"
    for _ in range(1 if kind == "empty" else 8):
        content = bytearray(demo if kind != "garbage" else rng.randbytes(1 << 20))
        if kind == "empty":
            content.clear()
        elif kind == "truncated":
            del content[rng.randrange(len(content)) :]
        elif kind == "mutated":
            for _ in range(2000):
                content[rng.randrange(len(content))] = rng.randrange(256)
        image.write_bytes(content)
        with guestfs.GuestFS(python_return_dict=True) as opened:
            opened.add_drive_ro(str(image))
            for name, *arguments in (
                ("launch",),
                ("list_filesystems",),
                ("inspect_os",),
                ("mount_ro", "/dev/sda2", "/"),
                ("mount_ro", "/dev/sda", "/"),
                ("ls", "/"),
                ("find", "/"),
                ("inspect_list_applications2", "/dev/sda2"),
            ):
                _attempt(lambda: getattr(opened, name)(*arguments))  # noqa: B023


def _attempt(call: Callable[[], Any]) -> None:
    """Nothing but a result or a ``RuntimeError`` that is ours comes of a call."""
    try:
        call()
    except (guestfs.GuestFSError, NotImplementedError):
        pass


_LONG, _DEEP = "/" + "x" * 5000, "/" + "a/" * 3000
_ODD_TEXT = ("", "/", "/a\0b", "\ud800", "/\udcff", _LONG, _DEEP, "-1", "(", "[", "*", "/dev/sda", "/dev/", "/etc")
_USUAL_TEXT = ("/etc/passwd", "/etc", "/dev/sda2", "/dev/sda")
_NUMBERS = (0, 1, -1, 1 << 31, 1 << 63, -(1 << 63), 1 << 70)
_LISTS: tuple[list[str], ...] = ([], [""], ["/"], ["\0"], ["\ud800"], ["passwd"])
# Arguments that name files of the host, and calls whose `filename` does.
_OF_HOST = {"localdir", "tarfile", "tarball", "cpiofile", "zfile", "zdevice", "sumsfile", "base64file", "backingfile"}
_OF_HOST |= {"files", "filenames", "dom", "libvirturi"}
_HOST_CALLS = ("add_", "disk_", "download", "yara_load")
_LEFT_OUT = {"close", "shutdown", "kill_subprocess", "mount_local", "mount_local_run", "umount_local", "sleep"}
_LEFT_OUT |= {"set_event_callback", "add_domain", "add_libvirt_dom", "set_trace"}


def _odd(name: str, parameter: inspect.Parameter, rng: random.Random, host: Path) -> Any:
    kind = str(parameter.annotation)
    if parameter.name in _OF_HOST or (parameter.name == "filename" and name.startswith(_HOST_CALLS)):
        return rng.choice([str(host / "out"), str(host), "", f"{host}/a\0b", f"{host}/none/none"])
    if "Sequence" in kind or kind == "list":
        return rng.choice(_LISTS)
    if "bool" in kind:
        return rng.choice([True, False])
    if "int" in kind:
        return rng.choice(_NUMBERS)
    return rng.choice(_ODD_TEXT + _USUAL_TEXT * 3)


def test_odd_arguments(tmp_path: Path) -> None:
    calls = {
        name: [one for one in inspect.signature(method).parameters.values() if one.name != "self"]
        for name, method in inspect.getmembers(guestfs.GuestFS, callable)
        if not name.startswith("_") and name not in REFUSED and name not in _LEFT_OUT
    }
    rng = random.Random(6)
    end = time.monotonic() + _FUZZ_SECONDS
    opened = _opened()
    while time.monotonic() < end:
        for name, parameters in calls.items():
            if not opened.mountpoints():
                opened.close()
                opened = _opened()
            wanted = [one for one in parameters if one.default is one.empty or rng.random() < 0.2]
            arguments = {one.name: _odd(name, one, rng, tmp_path) for one in wanted}
            _attempt(lambda: getattr(opened, name)(**arguments))  # noqa: B023
    opened.close()
