"""``guestctl serve nbd`` as a process: what it prints, serves, leaves behind, and its TLS."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import volume_images
from conftest import Run
from nbd_client import EXPORT_NAME, GO, LIST, STARTTLS, STRUCTURED_REPLY, Client

_GUESTCTL = (sys.executable, "-m", "guestctl")
_SIZE = 3 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.raw"
    path.write_bytes(os.urandom(_SIZE))
    return path


@contextmanager
def _served(*words: str | Path, ends_with: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a server and the URI that it printed."""
    argv = [*_GUESTCTL, "serve", "nbd", *map(str, words)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.terminate()
            _, errors = server.communicate(timeout=20)
        assert (server.returncode, errors) == (ends_with, "")


def _fails(*words: str | Path) -> str:
    done = subprocess.run([*_GUESTCTL, "serve", "nbd", *map(str, words)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and not done.stdout
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(run: Run, image: Path, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "socket"
    with _served(image, "--socket", path) as (server, uri):
        assert uri == f"nbd+unix:///?socket={path}"
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
        with Client(path).go() as client, Client(path):
            server.send_signal(number)
            assert server.wait(20) == 0
            assert client.ended()
        assert not path.exists()


def test_tcp(run: Run, image: Path) -> None:
    with _served(image, "--bind", "127.0.0.1", "--port", "0", "--export", "a b") as (_, uri):
        assert uri.startswith("nbd://127.0.0.1:") and uri.endswith("/a%20b")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
        port = uri.split(":")[2].split("/")[0]
        assert "127.0.0.1:" + port + ": Address already in use" in _fails(image, "--bind", "127.0.0.1", "--port", port)


def test_once(run: Run, image: Path, tmp_path: Path) -> None:
    with _served(image, "--socket", tmp_path / "socket", "--once") as (server, uri):
        run("nbdcopy", uri, tmp_path / "copy")
        assert server.wait(20) == 0
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_socket_files_that_are_there(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with _served(image, "--socket", path):
        assert f"{path}: Address already in use" in _fails(image, "--socket", path)
        Client(path).close()
    path.write_text("of a user")
    assert f"{path}: Address already in use" in _fails(image, "--socket", path)
    assert path.read_text() == "of a user"
    assert "error" in _fails(image, "--socket", tmp_path / ("x" * 120))
    assert "No such file or directory" in _fails(image, "--socket", tmp_path / "no" / "socket")


def test_logical_volume(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / f"disk{number}" for number in range(3)]
    for path, content in zip(paths, volume_images.images("lvm-on-md"), strict=True):
        path.write_bytes(content)
    more = [word for path in paths[1:] for word in ("-a", str(path))]
    for device, expected in volume_images.reads("lvm-on-md")[0, 1, 2].items():
        with _served(paths[0], *more, "--socket", tmp_path / "socket", "--device", device) as (_, uri):
            run("nbdcopy", uri, tmp_path / "copy")
        content = (tmp_path / "copy").read_bytes()
        assert f"{len(content)} {hashlib.sha256(content).hexdigest()}" == expected
    with _served(paths[0], *more, "--socket", tmp_path / "socket", "--device", "/dev/sdb") as (_, uri):
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, paths[1])
    assert "no device /dev/vg/none in this machine" in _fails(paths[0], *more, "--device", "/dev/vg/none")


def test_partition(run: Run, image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(image.read_bytes())
    run("sfdisk", "-q", disk, input="label: gpt\nstart=256, size=1000\nstart=2048, size=3000\n")
    run("qemu-img", "convert", "-O", "qcow2", disk, tmp_path / "qcow2")
    with _served(tmp_path / "qcow2", "--socket", tmp_path / "socket", "--device", "/dev/sda2") as (_, uri):
        run("nbdcopy", uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == disk.read_bytes()[2048 * 512 : 5048 * 512]


def test_damaged_clusters(run: Run, image: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    (tmp_path / "text").write_bytes(b"some text\n" * 300_000)
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", tmp_path / "text", packed)
    with packed.open("r+b") as file:
        file.seek(0x50000 + 40)  # inside the first compressed cluster
        file.write(b"\xff" * 40)
    whole = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read 0 64k", packed], capture_output=True, text=True)
    assert "failed" in whole.stdout + whole.stderr
    with _served(packed, "--socket", tmp_path / "socket") as (_, uri), Client(tmp_path / "socket").go() as client:
        assert client.read(0, 65536) == 5
        assert client.read(1 << 20, 1 << 20) == (b"some text\n" * 300_000)[1 << 20 : 2 << 20]
        done = subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", "read 0 512", uri], capture_output=True, text=True)
        assert "read failed: Input/output error" in done.stdout + done.stderr


# TLS


@pytest.fixture(scope="module")
def credentials(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories in qemu's layout: ``server``, ``client``, and ``stranger`` with a certificate that nobody signed."""
    top = tmp_path_factory.mktemp("tls")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run("openssl", "req", "-x509", *new_key, "-subj", "/CN=authority", "-keyout", top / "ca-key", "-out", top / "ca")
    (top / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name, role in (("server", "server"), ("client", "client"), ("stranger", "client")):
        directory = top / name
        directory.mkdir()
        (directory / "ca-cert.pem").write_bytes((top / "ca").read_bytes())
        key, certificate, request = directory / f"{role}-key.pem", directory / f"{role}-cert.pem", directory / "request"
        if name == "stranger":
            run("openssl", "req", "-x509", *new_key, "-subj", "/CN=x", "-keyout", key, "-out", certificate)
            continue
        run("openssl", "req", *new_key, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        signer = ("-CA", top / "ca", "-CAkey", top / "ca-key", "-CAcreateserial", "-extfile", top / "names")
        run("openssl", "x509", "-req", "-in", request, *signer, "-days", "2", "-out", certificate)
    return top


def _compare_over_tls(directory: Path, port: str, image: Path) -> subprocess.CompletedProcess[str]:
    tls = f"tls-creds-x509,id=tls,endpoint=client,dir={directory}"
    remote = f"driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},tls-creds=tls"
    local = f"driver=file,filename={image}"
    argv = ["qemu-img", "compare", "--object", tls, "--image-opts", remote, local]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_tls(run: Run, credentials: Path, image: Path, tmp_path: Path) -> None:
    run("qemu-img", "--version")
    words = ("--bind", "127.0.0.1", "--port", "0", "--tls-certificates", credentials / "server")
    with _served(image, *words) as (_, uri):
        assert uri.startswith("nbds://127.0.0.1:")
        port = uri.split(":")[2].split("/")[0]
        done = _compare_over_tls(credentials / "client", port, image)
        assert (done.returncode, done.stdout) == (0, "Images are identical.\n"), done.stderr
        run("nbdcopy", f"{uri}?tls-certificates={credentials}/client", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == image.read_bytes()
        assert _compare_over_tls(credentials / "stranger", port, image).returncode == 2
        plain = subprocess.run(["qemu-img", "info", uri.replace("nbds:", "nbd:")], capture_output=True, text=True)
        assert plain.returncode == 1 and "TLS negotiation required" in plain.stderr


def test_nothing_goes_past_tls(run: Run, credentials: Path, image: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with _served(image, "--socket", path, "--tls-certificates", credentials / "server"):
        with Client(path) as client:
            for option in (STRUCTURED_REPLY, LIST, GO, 99):
                assert client.option(option) == [(1 << 31 | 5, b"")]
            assert client.option(EXPORT_NAME) == []
        with Client(path) as client:  # what is sent before the handshake is no part of what comes after it
            client.socket.sendall(struct.pack(">QII", 0x49484156454F5054, STARTTLS, 0) + b"IHAVEOPT" * 20)
            client.receive(20)
            assert client.ended()
        uri = f"nbds+unix:///?socket={path}&tls-certificates={credentials}/client"
        run("nbdcopy", "--connections=3", uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_credentials_that_are_missing(credentials: Path, image: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}/server-cert.pem: No such file" in _fails(image, "--tls-certificates", tmp_path)
    (tmp_path / "server-cert.pem").write_bytes((credentials / "server/server-cert.pem").read_bytes())
    assert f"{tmp_path}/server-key.pem: No such file" in _fails(image, "--tls-certificates", tmp_path)
    (tmp_path / "server-key.pem").write_text("no key")
    assert "error: " in _fails(image, "--tls-certificates", tmp_path)


@pytest.mark.skipif(not hasattr(ssl.SSLContext, "set_psk_server_callback"), reason="needs Python 3.13")
def test_pre_shared_keys(run: Run, image: Path, tmp_path: Path) -> None:
    run("qemu-img", "--version")
    keys = {}
    for name, user, key in (
        ("right", "alice", "0123456789abcdef"),
        ("wrong", "alice", "00" * 8),
        ("other", "bob", "00"),
    ):
        keys[name] = tmp_path / name
        keys[name].mkdir()
        (keys[name] / "keys.psk").write_text(f"{user}:{key}\n")
    words = ("--bind", "127.0.0.1", "--port", "0", "--tls-certificates", keys["right"])
    with _served(image, *words) as (_, uri):
        port = uri.split(":")[2].split("/")[0]
        for name, user, code in (("right", "alice", 0), ("wrong", "alice", 2), ("other", "bob", 2)):
            tls = f"tls-creds-psk,id=tls,endpoint=client,dir={keys[name]},username={user}"
            remote = f"driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},tls-creds=tls"
            argv = ["qemu-img", "compare", "--object", tls, "--image-opts", remote, f"driver=file,filename={image}"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
            assert done.returncode == code, done.stderr
        run("nbdcopy", f"nbds://alice@127.0.0.1:{port}/?tls-psk-file={keys['right']}/keys.psk", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_psk_server_callback"), reason="this Python has pre-shared keys")
def test_pre_shared_keys_are_refused_by_name(image: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.psk").write_text("user:0123456789abcdef\n")
    assert "pre-shared keys need Python 3.13 or later" in _fails(image, "--tls-certificates", tmp_path)


def test_overlay(run: Run, image: Path, tmp_path: Path) -> None:
    overlay, before = tmp_path / "overlay", image.read_bytes()
    for number in (1, 2):  # made, and opened again
        with _served(image, "--overlay", overlay, "--socket", tmp_path / "socket") as (_, uri):
            run("qemu-io", "-f", "raw", "-c", f"write -P {number} {number}M 100k", uri)
            assert "Another process is using it" in _fails(image, "--overlay", overlay)
        read = run("qemu-io", "-r", "-c", f"read -P {number} {number}M 100k", "-c", "read -P 1 1M 100k", overlay)
        assert read.count("read 102400/102400") == 2 and "failed" not in read
        run("qemu-img", "check", "-q", overlay)
    assert image.read_bytes() == before
    (tmp_path / "other").write_bytes(before)
    assert "is no overlay of" in _fails(tmp_path / "other", "--overlay", overlay)
    assert "no device /dev/sda1" in _fails(image, "--overlay", overlay, "--device", "/dev/sda1")
    with _served(image, "--overlay", overlay, "--device", "/dev/sda", "--socket", tmp_path / "socket") as (_, uri):
        run("qemu-img", "compare", "-f", "raw", uri, overlay, "-U")


def test_overlay_of_a_partition(run: Run, image: Path, tmp_path: Path) -> None:
    disk, overlay = tmp_path / "disk", tmp_path / "overlay"
    disk.write_bytes(image.read_bytes())
    run("sfdisk", "-q", disk, input="label: gpt\nstart=2048, size=3000\n")
    expected = bytearray(disk.read_bytes())
    words = (disk, "--overlay", overlay, "--socket", tmp_path / "socket", "--device", "/dev/sda1")
    with _served(*words) as (_, uri):
        read = run(
            "qemu-io", "-f", "raw", "-c", "write -P 5 1k 100k", "-c", "write -z 1M 64k", "-c", "read 0 1500k", uri
        )
        assert read.count("1536000/1536000") == 1
        with Client(tmp_path / "socket").go() as client:
            for command in (1, 6):  # past the end of the partition, not of the disk
                client.send(command, 1536000 - 512, 1024)
                client.socket.sendall(bytes(1024) if command == 1 else b"")
                assert client.simple_reply() == 28
    start = 2048 * 512
    expected[start + 1024 : start + 1024 + 102400] = b"\5" * 102400
    expected[start + (1 << 20) : start + (1 << 20) + 65536] = bytes(65536)
    run("qemu-img", "convert", "-O", "raw", overlay, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == expected


def test_overlay_of_a_volume_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"disk{number}" for number in range(3)]
    for path, content in zip(paths, volume_images.images("lvm-on-md"), strict=True):
        path.write_bytes(content)
    more = [word for path in paths[1:] for word in ("-a", str(path))]
    for device in ("/dev/vg/root", "/dev/md127"):
        words = (paths[0], *more, "--overlay", tmp_path / "overlay", "--device", device)
        assert "only disks and partitions have overlays" in _fails(*words)
    assert not (tmp_path / "overlay").exists()
    words = (paths[0], *more, "--overlay", tmp_path / "o", "--device", "/dev/sdb", "--socket", tmp_path / "s")
    with _served(*words), Client(tmp_path / "s").go() as client:
        client.send(6, 0, 4096)
        assert client.simple_reply() == 0
    assert f"file: {paths[1]}" in _info(tmp_path / "o")


def _info(path: Path) -> str:
    done = subprocess.run([*_GUESTCTL, "info", path], capture_output=True, text=True)
    return done.stdout
