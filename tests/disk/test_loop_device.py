"""Real loop devices, beside what losetup, sfdisk and the kernel say of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from conftest import Run
from guestctl.disk import LoopDevice, attach
from guestctl.disk.attachments import process_start

Mount = Callable[..., AbstractContextManager[Path]]

pytestmark = pytest.mark.root

_GUESTCTL = (sys.executable, "-m", "guestctl")


@pytest.fixture(autouse=True)
def _needs_loop_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def disk(run: Run, tmp_path: Path) -> Path:
    """A disk with primary, extended and logical partitions; each sector holds its number."""
    path = tmp_path / "disk"
    path.write_bytes(b"".join(b"%15d\n" % sector * 32 for sector in range(8192)))
    layout = ("start=100, size=200, type=83", "start=1000, type=5", "start=1100, size=300", "start=1500, size=700")
    run("sfdisk", "-q", path, input="\n".join(["label: dos", *layout, ""]))
    return path


def _backing(device: str) -> dict[str, object]:
    argv = ["losetup", "--json", "--list", "--output", "NAME,BACK-FILE,OFFSET,SIZELIMIT,RO", device]
    found: dict[str, object] = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)["loopdevices"][
        0
    ]
    return found


def _is_attached(path: Path) -> bool:
    return any(file.read_text().startswith(str(path)) for file in Path("/sys/block").glob("loop*/loop/backing_file"))


def test_attributes_are_what_losetup_shows(disk: Path) -> None:
    with LoopDevice(disk, offset=512, size_limit=4096) as loop:
        shown = _backing(loop.device)
        assert shown == {"name": loop.device, "back-file": str(disk), "offset": 512, "sizelimit": 4096, "ro": True}
        assert Path(loop.device).read_bytes() == disk.read_bytes()[512 : 512 + 4096]
        with pytest.raises(OSError, match=r"Read-only|Operation not permitted"):
            Path(loop.device).write_bytes(b"x")
    assert not _is_attached(disk)


def test_writes_reach_the_file(disk: Path) -> None:
    with LoopDevice(disk, read_only=False, offset=1024) as loop, open(loop.device, "r+b") as device:
        assert _backing(loop.device)["ro"] is False
        device.write(b"w" * 512)
        device.flush()
        os.fsync(device.fileno())
        assert disk.read_bytes()[1024:1536] == b"w" * 512
    assert not _is_attached(disk)


def test_a_device_for_each_partition(run: Run, disk: Path) -> None:
    table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"]
    content = disk.read_bytes()
    expected = {
        int(one["node"].removeprefix(str(disk))): content[one["start"] * 512 : (one["start"] + one["size"]) * 512]
        for one in table
        if one["type"] != "5"
    }
    with LoopDevice(disk) as loop:
        assert {number: Path(device).read_bytes() for number, device in loop.partitions.items()} == expected
        assert loop.partitions is loop.partitions
    assert sorted(expected) == [1, 5, 6]
    assert not _is_attached(disk)


def test_an_exception_detaches(disk: Path) -> None:
    with pytest.raises(ZeroDivisionError), LoopDevice(disk) as loop:
        assert loop.partitions
        raise ZeroDivisionError
    assert not _is_attached(disk)
    with pytest.raises(FileNotFoundError, match="none"), LoopDevice(disk.with_name("none")):
        pass


def test_by_sudo(run: Run, disk: Path) -> None:
    run("sudo", "-n", "true")
    with LoopDevice(disk, sudo=True) as loop:
        assert Path(loop.device).read_bytes() == disk.read_bytes()
        assert set(loop.partitions) == {1, 5, 6}
    assert not _is_attached(disk)


_HOLD = """
import sys, time
from guestctl.disk import LoopDevice
with LoopDevice(sys.argv[1], sudo="sudo" in sys.argv) as loop:
    print(loop.device, loop.partitions, flush=True)
    time.sleep(60)
"""


def _hold(disk: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, disk, *words], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, holder.stdout.readline().split()[0]


def test_the_kernel_frees_the_devices_of_a_killed_process(disk: Path) -> None:
    holder, _ = _hold(disk)
    with holder:
        assert _is_attached(disk)
        holder.send_signal(signal.SIGKILL)
    assert not _is_attached(disk)


def _devices(*words: str) -> list[dict[str, object]]:
    argv = [*_GUESTCTL, "devices", "--json", *words]
    found: list[dict[str, object]] = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return found


def test_stale_devices_are_detached(run: Run, disk: Path, tmp_path: Path) -> None:
    run("sudo", "-n", "true")
    others = tmp_path / "others"
    others.write_bytes(bytes(4096))
    with LoopDevice(others) as mine:
        holder, device = _hold(disk, "sudo")
        with holder:
            about = {"source": str(disk), "pid": holder.pid}
            assert {"device": device, "stale": False, **about} in _devices()
            holder.send_signal(signal.SIGKILL)
        assert _is_attached(disk)
        listed = _devices()
        assert {"device": device, "stale": True, **about} in listed and len(listed) == 5
        assert "stale" in run(*_GUESTCTL, "devices")
        assert len(_devices("--detach-stale")) == 4
        assert not _is_attached(disk)
        assert [one["device"] for one in _devices()] == [mine.device]
    assert run(*_GUESTCTL, "devices") == ""


def test_records_of_others_count_for_nothing(tmp_path: Path) -> None:
    directory = tmp_path / f"guestctl-{os.getuid()}"
    directory.mkdir(mode=0o700)
    (directory / "loop0").write_text('{"device": 1')
    (directory / "loop1").write_text('{"device": "/dev/loop1", "source": "/x", "pid": 1, "started": 5}')
    assert _devices("--detach-stale") == []
    directory.chmod(0o777)
    done = subprocess.run([*_GUESTCTL, "devices"], capture_output=True, text=True)
    assert done.returncode == 1 and "is not a directory of this user alone" in done.stderr


def test_names_that_are_no_text(disk: Path) -> None:
    """Of a file, and of whatever process has the number of one that is gone."""
    strange = disk.with_name(os.fsdecode(b"di\xff\xfesk"))
    disk.rename(strange)
    with LoopDevice(strange) as loop:
        assert [(one["device"], one["source"]) for one in _devices()] == [(loop.device, str(strange))]
    script = "open('/proc/self/comm', 'wb').write(bytes([255, 254])); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None and process.stdout.readline()
        fields = Path(f"/proc/{process.pid}/stat").read_bytes().split()
        assert fields[1] == b"(\xff\xfe)" and process_start(process.pid) == int(fields[21])
        process.communicate(b"\n")


def test_attach_finds_the_shortest_way(run: Run, disk: Path, tmp_path: Path) -> None:
    with attach(disk) as found:
        assert isinstance(found, LoopDevice) and found.path == str(disk)
        assert Path(found.device).read_bytes() == disk.read_bytes()
    if not Path("/dev/fuse").exists():
        pytest.skip("needs FUSE")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, tmp_path / "qcow2")
    with attach(tmp_path / "qcow2") as found:
        assert Path(found.device).read_bytes() == disk.read_bytes()
        if isinstance(found, LoopDevice):
            assert set(found.partitions) == {1, 5, 6}
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path / "qcow2") not in mounts
