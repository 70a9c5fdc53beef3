"""The command line on the demo image, beside qemu-img and the tools that made it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[1] / "data" / "debian-12.qcow2"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Run = Callable[..., str]


@pytest.fixture
def cli() -> Cli:
    """Run guestctl in a process of its own."""

    def _cli(*argv: str | os.PathLike[str], code: int = 0, **how: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "guestctl", *map(str, argv)],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return _cli


@pytest.fixture(scope="session")
def raw(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo image as qemu-img converts it."""
    path = tmp_path_factory.mktemp("raw") / "debian.raw"
    run("qemu-img", "convert", "-O", "raw", DEMO, path)
    return path


def test_inspect_json(cli: Cli) -> None:
    report = json.loads(cli("inspect", "--json", DEMO).stdout)
    assert report["images"] == [
        {
            "device": "/dev/sda",
            "path": str(DEMO),
            "format": "qcow2",
            "virtual_size": 32 << 20,
            "partition_table": "gpt",
        }
    ]
    filesystems = {item["device"]: item for item in report["filesystems"]}
    assert (filesystems["/dev/sda1"]["type"], filesystems["/dev/sda1"]["uuid"]) == ("vfat", "1234-ABCD")
    assert filesystems["/dev/sda2"]["uuid"] == "6f1c2c0a-5d6e-4b6e-9d9c-3a0b8c1d2e3f"
    (guest,) = report["guests"]
    expected = {
        "root": "/dev/sda2",
        "type": "linux",
        "distro": "debian",
        "product_name": "Debian GNU/Linux 12 (bookworm)",
        "product_variant": None,
        "major_version": 12,
        "arch": "x86_64",
        "hostname": "demo.example.org",
        "osinfo": "debian12",
        "package_format": "deb",
        "package_management": "apt",
        "init_system": "systemd",
        "firmware": "uefi",
        "mountpoints": {"/": "/dev/sda2", "/boot/efi": "/dev/sda1"},
        "filesystems": ["/dev/sda1", "/dev/sda2"],
        "drive_mappings": {},
        "timezone": "Europe/Paris",
        "locale": "C.UTF-8",
    }
    assert {key: guest[key] for key in expected} == expected
    assert [user["name"] for user in guest["users"]] == ["root", "ada"]
    assert "ssh.service" in guest["services"]
    assert report["warnings"] == []


def test_applications_are_those_of_dpkg_query(cli: Cli, tmp_path: Path) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("needs dpkg-query")
    (tmp_path / "status").write_text(cli("cat", DEMO, "/var/lib/dpkg/status").stdout)
    listing = subprocess.run(
        ["dpkg-query", "--admindir", tmp_path, "-W", "-f", "${Package} ${Architecture}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (guest,) = json.loads(cli("inspect", "--json", DEMO).stdout)["guests"]
    found = [f"{item['name']} {item['arch']}" for item in guest["applications"]]
    assert sorted(found) == sorted(listing.splitlines())
    assert len(found) > 100
    without = json.loads(cli("inspect", "--json", "--no-applications", DEMO).stdout)
    assert without["guests"][0]["applications"] is None


def test_inspect_matches_its_schema(cli: Cli) -> None:
    import msgspec

    from guestctl.detectors.report import Report

    text = cli("inspect", "--json", DEMO).stdout
    assert msgspec.json.decode(text, type=Report).guests[0].distro == "debian"
    schema = json.loads(cli("schema", "inspect").stdout)
    assert set(json.loads(text)) == set(schema["$defs"]["Report"]["properties"])


def test_inspect_page_and_xml(cli: Cli) -> None:
    page = cli("inspect", DEMO).stdout
    assert "Debian GNU/Linux 12 (bookworm)\n====" in page
    assert "\x1b" not in page
    from xml.etree import ElementTree

    root = ElementTree.fromstring(cli("inspect", "--xml", DEMO).stdout)
    assert root.findtext("operatingsystem/hostname") == "demo.example.org"
    cli("inspect", "--xml", "--json", DEMO, code=2)


def test_info_and_check_beside_qemu_img(cli: Cli, run: Run) -> None:
    ours = json.loads(cli("info", "--json", DEMO).stdout)
    theirs = json.loads(run("qemu-img", "info", "--output=json", DEMO))
    theirs.pop("children", None)
    assert ours == theirs
    assert json.loads(cli("check", "--json", DEMO).stdout) == json.loads(
        run("qemu-img", "check", "--output=json", DEMO)
    )
    assert "file format: qcow2" in cli("info", DEMO).stdout


def test_map_beside_qemu_img(cli: Cli, run: Run, raw: Path) -> None:
    keys = ("start", "length", "depth", "present", "zero", "data", "offset")
    ours = [[item.get(key) for key in keys] for item in json.loads(cli("map", "--json", DEMO).stdout)]
    theirs = [[item.get(key) for key in keys] for item in json.loads(run("qemu-img", "map", "--output=json", DEMO))]
    assert ours == theirs
    assert cli("map", raw).stdout.startswith("Offset")


def test_compare(cli: Cli, raw: Path, tmp_path: Path) -> None:
    assert cli("compare", DEMO, raw).stdout == "Images are identical.\n"
    other = tmp_path / "other.raw"
    shutil.copy(raw, other)
    with other.open("r+b") as stream:
        stream.seek(5 << 20)
        byte = stream.read(1)
        stream.seek(5 << 20)
        stream.write(bytes([byte[0] ^ 1]))
    assert "Content mismatch at offset" in cli("compare", DEMO, other, code=1).stdout
    cli("compare", DEMO, tmp_path / "missing", code=2)


def test_partitions_beside_sfdisk(cli: Cli, run: Run, raw: Path) -> None:
    theirs = json.loads(run("sfdisk", "--json", raw))["partitiontable"]
    (ours,) = json.loads(cli("partitions", "--json", raw).stdout)
    assert ours["uuid"] == theirs["id"].lower()
    assert [(item["start_lba"], item["size_sectors"], item["name"], item["uuid"]) for item in ours["partitions"]] == [
        (item["start"], item["size"], item["name"], item["uuid"].lower()) for item in theirs["partitions"]
    ]
    assert "EFI System" in cli("partitions", raw).stdout


def test_filesystems_and_df(cli: Cli) -> None:
    assert [(item["device"], item["type"]) for item in json.loads(cli("filesystems", "--json", DEMO).stdout)] == [
        ("/dev/sda1", "vfat"),
        ("/dev/sda2", "ext4"),
    ]
    usage = json.loads(cli("df", "--json", DEMO).stdout)
    assert [item["mountpoint"] for item in usage] == ["/boot/efi", "/"]
    assert "/boot/efi" in cli("df", DEMO).stdout
    assert "IUse%" in cli("df", "-i", DEMO).stdout


def test_files_beside_debugfs(cli: Cli, run: Run, raw: Path, tmp_path: Path) -> None:
    start = json.loads(cli("partitions", "--json", raw).stdout)[0]["partitions"][1]["start"]
    run("debugfs", "-R", f"rdump / {tmp_path}", f"{raw}?offset={start}")
    expected = {
        "/" + path.relative_to(tmp_path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    lines = cli("hash", "-m", "/dev/sda2", DEMO).stdout.splitlines()
    found = {line[66:]: line[:64] for line in lines}
    assert found == expected
    assert list(found) == sorted(found, key=str.encode)
    assert cli("cat", DEMO, "/etc/passwd", "/etc/hostname").stdout == (
        (tmp_path / "etc/passwd").read_text() + (tmp_path / "etc/hostname").read_text()
    )
    names = cli("ls", DEMO, "/etc").stdout.splitlines()
    assert names == sorted(path.name for path in (tmp_path / "etc").iterdir())


def test_find_and_stat(cli: Cli) -> None:
    lines = [json.loads(line) for line in cli("find", "--json", DEMO, "/home").stdout.splitlines()]
    assert list(lines[0]) == ["path", "type", "mode", "uid", "gid", "size", "mtime", "nlink", "ino"]
    profile = next(line for line in lines if line["path"] == "/home/ada/.profile")
    assert (profile["type"], profile["mode"], profile["uid"], profile["nlink"]) == ("file", 0o100644, 1000, 1)
    assert cli("find", DEMO, "/home", "--name", ".prof*", "--type", "file").stdout == "/home/ada/.profile\n"
    assert cli("find", DEMO, "/home/ada/.profile", "--print0").stdout == "/home/ada/.profile\0"
    assert "Access: (0644/-rw-r--r--)" in cli("stat", DEMO, "/home/ada/.profile").stdout
    record = json.loads(cli("stat", "--json", DEMO, "/bin").stdout)
    assert (record["type"], record["target"]) == ("symlink", "usr/bin")
    assert json.loads(cli("stat", "-L", "--json", DEMO, "/bin").stdout)["type"] == "directory"
    assert "-> usr/bin" in cli("ls", "-l", DEMO).stdout
    # /boot/efi is the other filesystem.
    assert "/boot/efi/EFI/BOOT/BOOTX64.EFI" in cli("find", DEMO, "/boot").stdout
    assert cli("ls", "-m", "/dev/sda1", DEMO).stdout == "EFI\n"


def test_cp(cli: Cli, tmp_path: Path) -> None:
    cli("cp", DEMO, "/home/ada", "/etc/hostname", "/etc/systemd/system", tmp_path)
    assert (tmp_path / "hostname").read_text() == "demo.example.org\n"
    assert (tmp_path / "ada/.profile").stat().st_mode & 0o777 == 0o644
    assert any(path.is_symlink() for path in (tmp_path / "system").rglob("*"))
    # Again, over what is there.
    cli("cp", DEMO, "/etc/hostname", tmp_path)
    cli("cp", DEMO, "/etc/hostname", tmp_path / "missing", code=1)


def test_the_image_is_never_replaced(cli: Cli, run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "disk.img").write_text("a file of the guest that has the image's name")
    image = tmp_path / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(8 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", image)
    before = image.read_bytes()
    assert "is being read" in cli("cp", image, "/disk.img", tmp_path, code=1).stderr.lower()
    assert "is being read" in cli("tar-out", image, "/", image, code=1).stderr.lower()
    os.link(image, tmp_path / "same.tar")
    cli("tar-out", image, "/", tmp_path / "same.tar", code=1)
    assert image.read_bytes() == before


def test_tar_out(cli: Cli, tmp_path: Path) -> None:
    cli("tar-out", DEMO, "/etc", tmp_path / "etc.tar")
    with tarfile.open(tmp_path / "etc.tar") as archive:
        names = archive.getnames()
        hostname = archive.extractfile("./hostname")
        assert hostname is not None
        assert hostname.read() == b"demo.example.org\n"
        assert archive.getmember("./shadow").mode == 0o640
    assert names[0] == "."
    streamed = subprocess.run(
        [sys.executable, "-m", "guestctl", "tar-out", DEMO, "/etc", "-"], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(streamed)) as archive:
        assert archive.getnames() == names
    cli("tar-out", DEMO, "/nothing", tmp_path / "nothing.tar", code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["etc.tar"]


@pytest.mark.parametrize(
    "command", ["inspect", "info", "map", "check", "partitions", "filesystems", "df", "ls", "hash"]
)
def test_what_is_no_image(cli: Cli, tmp_path: Path, command: str) -> None:
    (tmp_path / "truncated.qcow2").write_bytes(DEMO.read_bytes()[:70])
    (tmp_path / "garbage.qcow2").write_bytes(b"QFI\xfb" + bytes(range(256)) * 8)
    for name in ("missing", ".", "truncated.qcow2", "garbage.qcow2"):
        done = cli(command, tmp_path / name, code=1)
        assert done.stderr.startswith("guestctl: error: ")
        assert done.stderr.count("\n") == 1


def test_an_empty_file_is_an_empty_disk(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert json.loads(cli("inspect", "--json", tmp_path / "empty").stdout)["guests"] == []
    assert cli("ls", tmp_path / "empty", code=1).stderr == "guestctl: error: no filesystem that guestctl knows\n"


def test_a_host_file_as_backing_file_is_refused(cli: Cli, run: Run, tmp_path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", tmp_path / "bad.qcow2", "1M")
    done = cli("inspect", tmp_path / "bad.qcow2", code=1)
    assert "/etc/passwd" in done.stderr
    assert "--allow-dir" in done.stderr
    assert "root:" not in done.stdout
    run("qemu-img", "create", "-f", "qcow2", "-u", "-b", "self.qcow2", "-F", "qcow2", tmp_path / "self.qcow2", "1M")
    assert "leads back to itself" in cli("map", tmp_path / "self.qcow2", code=1).stderr


def test_usage_errors_exit_2(cli: Cli) -> None:
    cli("nothing", code=2)
    cli("ls", code=2)
    cli("hash", "-a", "nothing", DEMO, code=2)


def test_start_imports_little() -> None:
    """--help is for a person who waits."""
    code = (
        "import sys, guestctl.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint(*sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = set(out.splitlines()[-1].split())
    assert not modules & {"rich", "msgspec", "yaml", "tenacity", "guestctl.disk", "google_crc32c", "zstandard"}


def test_closed_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m guestctl find {DEMO} / 2>{tmp_path}/err | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "/\n"
    assert (tmp_path / "err").read_text() == ""


def test_completion(cli: Cli) -> None:
    assert "_GUESTCTL_COMPLETE=bash_complete" in cli("completion", "bash").stdout


def test_version(cli: Cli) -> None:
    from guestctl import __version__

    assert cli("version").stdout == f"guestctl {__version__}\n"
