"""cloud-init, by the files that Debian 12's and Ubuntu 22.04's cloud images hold after a start."""

from __future__ import annotations

import json

from guestctl.detectors.linux.cloud_init import cloud_init
from host_system import memory_system
from memory_filesystem import Link

SOURCE = "DataSourceNoCloud [seed=/dev/sr0][dsmode=net]"


def test_a_started_guest() -> None:
    found = cloud_init(
        memory_system(
            {
                "/usr/bin/cloud-init": "#!/usr/bin/python3\n",
                "/etc/cloud/cloud.cfg": "users:\n   - default\ndisable_root: true\n",
                "/etc/cloud/cloud.cfg.d/90_dpkg.cfg": "# see dpkg\ndatasource_list: [ NoCloud, Ec2, None ]\n",
                "/var/lib/cloud/data/instance-id": "iid-local01\n",
                "/var/lib/cloud/data/result.json": json.dumps({"v1": {"datasource": SOURCE, "errors": ["oh"]}}),
                "/var/lib/cloud/instance": Link("instances/iid-local01"),
                "/var/lib/cloud/instances/iid-local01/datasource": f"DataSourceNoCloud: {SOURCE}\n",
            }
        )
    )
    assert (found.installed, found.ran, found.disabled) == (True, True, False)
    assert (found.instance_id, found.datasource, found.errors) == ("iid-local01", SOURCE, ["oh"])
    assert found.datasource_list == ["NoCloud", "Ec2", "None"]


def test_disabled() -> None:
    for path, content in (
        ("/etc/cloud/cloud-init.disabled", ""),
        ("/etc/systemd/system/cloud-init.service", Link("/dev/null")),
        ("/etc/default/grub", 'GRUB_CMDLINE_LINUX="quiet cloud-init=disabled"\n'),
    ):
        found = cloud_init(memory_system({path: content}))
        assert (found.disabled_by, found.disabled, found.ran, found.datasource) == (path, True, False, None)


def test_without_results() -> None:
    files = {
        "/var/lib/cloud/instance/datasource": f"DataSourceNoCloud: {SOURCE}\n",
        "/var/lib/cloud/data/instance-id": "i-1\n",
        "/var/lib/cloud/data/result.json": "{}",
        "/etc/cloud/cloud.cfg": "datasource_list:\n  - Azure\n  - None\nother: 1\n",
    }
    system = memory_system(files)
    found = cloud_init(system)
    assert (found.datasource, found.datasource_list) == (SOURCE, ["Azure", "None"])
    assert len(system.warnings) == 1
