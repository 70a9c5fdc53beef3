"""containers-storage beside ``podman``; docker's store in the shape that docker 24 writes."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.detectors.linux.containers import containers
from host_system import host_system, memory_system

Run = Callable[..., str]
ROOT = "var/lib/containers/storage"


@pytest.mark.root
def test_podman(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        archive.add(__file__, "bin/true")
    guest = tmp_path / "guest"
    short = tempfile.TemporaryDirectory()  # podman takes 50 characters at most
    request.addfinalizer(short.cleanup)
    podman = ("podman", "--root", guest / ROOT, "--runroot", short.name, "--storage-driver", "vfs")
    run(*podman, "import", layer, "demo:1")
    run(*podman, "tag", "demo:1", "other:2")
    run(*podman, "create", "--network=none", "--name", "box", "demo:1", "/bin/true")
    # What a store of real size has beside its tables is of no interest here.
    (image,) = {json.dumps(one, sort_keys=True) for one in json.loads(run(*podman, "images", "--format", "json"))}
    (container,) = json.loads(run(*podman, "ps", "-a", "--format", "json"))
    run("rm", "-rf", guest / ROOT / "vfs", guest / ROOT / "libpod")
    found = containers(host_system(guest))
    truth = json.loads(image)
    assert found.engines == ["containers-storage"]
    assert [(one.id, sorted(one.names)) for one in found.images] == [(truth["Id"], sorted(truth["Names"]))]
    assert (found.images[0].created or "")[:19] == truth["CreatedAt"][:19]
    assert found.images[0].size == layer.stat().st_size
    assert [(one.id, one.name, one.image) for one in found.containers] == [
        (container["Id"], container["Names"][0], container["Image"])
    ]


def test_docker() -> None:
    layers = [f"sha256:{number:064x}" for number in (1, 2)]
    chain = hashlib.sha256(" ".join(layers).encode()).hexdigest()
    image, container = "a" * 64, "b" * 64
    base = "/var/lib/docker/image/overlay2"
    repositories = {
        "Repositories": {
            "alpine": {
                "alpine:3.18": f"sha256:{image}",
                f"alpine@sha256:{'c' * 64}": f"sha256:{image}",
            }
        }
    }
    state = {"Running": False, "Paused": False, "Dead": False, "ExitCode": 0, "StartedAt": "2024-01-01T00:00:00Z"}
    files: dict[str, str | bytes | None] = {
        f"{base}/repositories.json": json.dumps(repositories),
        f"{base}/imagedb/content/sha256/{image}": json.dumps(
            {
                "architecture": "amd64",
                "created": "2023-12-08T01:20:49Z",
                "rootfs": {"type": "layers", "diff_ids": layers},
            }
        ),
        f"{base}/layerdb/sha256/{layers[0].partition(':')[2]}/size": "7000",
        f"{base}/layerdb/sha256/{chain}/size": "34",
        f"/var/lib/docker/containers/{container}/config.v2.json": json.dumps(
            {
                "ID": container,
                "Name": "/web",
                "Created": "2024-01-01T00:00:00Z",
                "Image": f"sha256:{image}",
                "Config": {"Image": "alpine:3.18"},
                "State": state,
            }
        ),
        "/var/lib/docker/containers/damaged/config.v2.json": "[" * 100_000,
        "/usr/bin/kubelet": "",
        "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db": "",
    }
    system = memory_system(files)
    found = containers(system)
    assert found.engines == ["docker", "containerd", "kubelet"]
    (one,) = found.images
    assert (one.id, one.names, one.size, one.created) == (image, ["alpine:3.18"], 7034, "2023-12-08T01:20:49Z")
    (box,) = found.containers
    assert (box.name, box.image, box.state) == ("web", "alpine:3.18", "exited")
    assert len(system.warnings) == 2
    for flag in ("Running", "Paused", "Dead"):
        changed = json.loads(str(files[f"/var/lib/docker/containers/{container}/config.v2.json"]))
        changed["State"][flag] = True
        system = memory_system({**files, f"/var/lib/docker/containers/{container}/config.v2.json": json.dumps(changed)})
        assert containers(system).containers[0].state == flag.lower()


@pytest.mark.parametrize(
    "text", ["[]", "{", "null", '[1,{"id":5,"names":"x","layer":[]}]', '{"Repositories":[]}', "\xff"]
)
def test_damage(text: str) -> None:
    root = "/var/lib/containers/storage"
    names = ["overlay-images/images.json", "overlay-layers/layers.json", "overlay-containers/containers.json"]
    base = "/var/lib/docker/image/overlay2"
    files = {f"{root}/{name}": text for name in names}
    files |= {f"{base}/repositories.json": text, f"{base}/imagedb/content/sha256/x": text}
    found = containers(memory_system(files))
    assert found.engines == ["docker", "containers-storage"]
    assert all(image.size is None for image in found.images)
