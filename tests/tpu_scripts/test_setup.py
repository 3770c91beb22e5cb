"""Setting up hosts: host.sh really runs on fake hosts, with a fake apt, uv, Python and gcsfuse."""

import pytest


def test_every_host_gets_python_code_packages_and_buckets(cloud):
    cloud.queue("hosts", "2")
    assert cloud.run("create.sh", TPU_TYPE="v4-16").code == 0
    result = cloud.run("setup.sh", TPU_TYPE="v4-16", TPU_BUCKETS="mine other", TPU_GCSFUSE_FLAGS="--cache-dir=/tmp/x")
    assert result.code == 0, result.err
    assert "host-0: is set up" in result.out and "host-1: is set up" in result.out

    for host in 0, 1:
        home = cloud.home(host)
        assert (home / "mmdiff/setup.py").is_file() and (home / "mmdiff/configs/tvqa.py").is_file()
        assert not (home / "mmdiff/.venv").exists()
        assert (home / "mmdiff-venv/bin/mmdiff").exists()
        assert f"-m pip install --quiet -c constraints.txt .[tpu] in {home}/mmdiff" in cloud.lines("python")
        assert (home / "mounted-mine").exists() and (home / "mounted-other").exists()
    assert cloud.lines("uv")[0] == f"venv --quiet --seed --python 3.11 {cloud.home(0)}/mmdiff-venv"
    mount = "--implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0"
    assert cloud.lines("gcsfuse")[0] == f"{mount} --cache-dir=/tmp/x mine {cloud.root}/gcs/mine"
    settings = "\n".join(cloud.lines("sudo"))
    assert "ip route change default via 10.0.0.1 dev ens8 proto dhcp rto_min 5ms" in settings
    assert "transparent_hugepage" not in settings  # not for v4


def test_one_host_needs_no_settings_between_hosts(cloud):
    cloud.run("create.sh")
    assert cloud.run("setup.sh").code == 0
    assert "rto_min" not in "\n".join(cloud.lines("sudo"))
    assert not cloud.lines("gcsfuse")


def test_setting_up_again_does_not_install_again(cloud):
    cloud.run("create.sh")
    for _ in range(2):
        assert cloud.run("setup.sh", TPU_BUCKETS="mine").code == 0
    assert len(cloud.lines("uv")) == len(cloud.lines("gcsfuse")) == 1
    assert sum("apt-get" in line and "install" in line for line in cloud.lines("sudo")) == 1


def test_a_connection_that_breaks_is_tried_again(cloud):
    cloud.run("create.sh")
    cloud.queue("scp_errors", "lost connection")
    cloud.queue("ssh_errors", "connection reset", "connection reset")
    assert cloud.run("setup.sh").code == 0
    assert len(cloud.calls("ssh")) == 3


def test_an_unreachable_vm_is_given_up(cloud):
    cloud.run("create.sh")
    cloud.queue("ssh_errors", *["connection refused"] * 9)
    result = cloud.run("setup.sh", TPU_SSH_TRIES="3")
    assert result.code == 75
    assert len(cloud.calls("ssh")) == 3
    assert "cannot reach mmdiff by ssh" in result.err.splitlines()[-1]


def test_a_bucket_that_cannot_be_mounted_is_said_once_and_not_tried_again(cloud):
    cloud.run("create.sh")
    (cloud.root / "archive/gcsfuse").write_text("#!/usr/bin/env bash\nexit 1\n")
    result = cloud.run("setup.sh", TPU_BUCKETS="mine")
    assert result.code == 1
    assert "host-0: cannot mount gs://mine: does it exist" in result.err
    assert len(cloud.calls("ssh")) == 1


@pytest.mark.parametrize(
    "state, said", [(None, "run create.sh"), ("PREEMPTED", "was pre-empted"), ("REPAIRING", "not READY")]
)
def test_only_a_ready_vm_is_set_up(cloud, state, said):
    if state:
        cloud.give_vm(state=state)
    result = cloud.run("setup.sh")
    assert result.code == 1
    assert said in result.err
    assert not cloud.calls("scp")
