"""Launching: how a run ended decides whether it is started again, and where."""

import os
import shutil
import signal
import subprocess
import time

import pytest

WORDS = ("pretrain", "--config", "configs/tvqa.py:random", "--workdir", "gs://mine/run")
BUCKET = {"TPU_BUCKETS": "mine"}


@pytest.fixture
def vm(cloud):
    """A VM that is set up, with the bucket `mine` mounted."""

    def give(hosts: int = 1, **options) -> None:
        cloud.give_vm(hosts=hosts, **options)
        (cloud.root / "gcs/mine/run").mkdir(parents=True, exist_ok=True)
        for host in range(hosts):
            (cloud.home(host) / "mounted-mine").touch()

    return give


def endings(cloud, *lines: str, host: int = 0) -> None:
    cloud.queue(f"endings-host-{host}", *lines)


@pytest.mark.parametrize("ending", ["0", "2", "130"])
def test_done_mistaken_and_interrupted_runs_are_not_started_again(cloud, vm, ending):
    vm()
    endings(cloud, ending)
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == int(ending), result.err
    assert len(cloud.runs()) == 1
    log = (cloud.root / "logs/mmdiff/host-0.log").read_text()
    assert "standard output" in log and "standard error" in log and f"ended with {ending}" in log
    assert (cloud.root / "gcs/mine/run/logs/host-0.log").exists()


def test_a_run_that_was_told_to_end_is_started_again_with_the_same_words(cloud, vm):
    vm()
    endings(cloud, "75", "75", "0")
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == 0, result.err
    assert cloud.runs() == [[*WORDS[:-1], f"{cloud.root}/gcs/mine/run"]] * 3


def test_after_a_reboot_buckets_are_mounted_before_the_run_is_started_again(cloud, vm):
    vm()
    for tool in ("gcsfuse", "uv"):
        shutil.copy(cloud.root / "archive" / tool, cloud.root / "bin")
    endings(cloud, "reboot", "0")
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == 0, result.err
    assert "gs://mine is not mounted" in result.err
    assert len(cloud.runs()) == 2 and len(cloud.lines("gcsfuse")) == 1


def test_crashes_are_started_again_a_few_times(cloud, vm):
    vm()
    endings(cloud, *["134"] * 9)
    result = cloud.run("launch.sh", "--", *WORDS, TPU_CRASHES="2", **BUCKET)
    assert result.code == 134
    assert len(cloud.runs()) == 3


def test_restarts_are_bounded(cloud, vm):
    vm()
    endings(cloud, *["75"] * 9)
    result = cloud.run("launch.sh", "--", *WORDS, TPU_RESTARTS="2", **BUCKET)
    assert result.code == 1
    assert len(cloud.runs()) == 3
    assert "TPU_RESTARTS=2 times: giving up" in result.err


def test_a_preempted_vm_is_replaced_and_the_run_goes_on(cloud, vm):
    vm()
    endings(cloud, "taken", "0")
    log = cloud.root / "logs/mmdiff/host-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("of the first VM\n")
    result = cloud.run("launch.sh", "--", *WORDS, TPU_SPOT="yes", **BUCKET)
    assert result.code == 0, result.err
    assert cloud.verbs() == ["delete", "create", "scp", "scp", "scp"]  # the last fetches the log
    assert cloud.runs()[0] == cloud.runs()[1] and len(cloud.runs()) == 2
    assert "--spot" in cloud.calls("create")[0]
    assert "mmdiff was pre-empted: restart 1 of at most 20" in result.err
    assert [path.read_text() for path in log.parent.glob("host-0.until-*.log")] == ["of the first VM\n"]


def test_a_vm_that_is_being_repaired_is_waited_for(cloud, vm):
    vm()
    cloud.queue("states", "READY", "REPAIRING", "REPAIRING", "READY")
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == 0, result.err
    assert result.err.count("mmdiff is REPAIRING: waiting") == 1
    assert len(cloud.runs()) == 1


def test_a_vm_that_cannot_be_replaced_yet_is_asked_for_again(cloud, vm):
    vm(state="PREEMPTED")
    cloud.queue("create_errors", *["There is no more capacity in the zone"] * 3)
    result = cloud.run("launch.sh", "--", *WORDS, TPU_CREATE_TRIES="2", **BUCKET)
    assert result.code == 0, result.err
    assert cloud.verbs().count("create") == 4
    assert len(cloud.runs()) == 1


def test_a_new_vm_that_could_not_be_set_up_at_first_is_kept(cloud, vm):
    vm(state="PREEMPTED")
    cloud.queue("scp_errors", "connection refused", "connection refused")
    result = cloud.run("launch.sh", "--", *WORDS, TPU_SSH_TRIES="2", **BUCKET)
    assert result.code == 0, result.err
    assert cloud.verbs() == ["delete", "create", *["scp"] * 5]
    assert len(cloud.runs()) == 1


def test_a_vm_that_may_not_be_replaced_ends_it(cloud, vm):
    vm(state="PREEMPTED")
    cloud.queue("create_errors", "PERMISSION_DENIED: no")
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == 1
    assert cloud.verbs() == ["delete", "create"]


def test_a_vm_that_somebody_deleted_is_not_rented_again(cloud, vm):
    vm()
    endings(cloud, "sigterm")
    process = cloud.start("launch.sh", "--", *WORDS, **BUCKET)
    wait_for(cloud.runs)
    assert cloud.run("delete.sh", "--yes").code == 0
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert "somebody deleted mmdiff" in err
    assert not cloud.calls("create")


def test_a_run_that_died_without_a_word_is_set_up_and_started_again(cloud, vm):
    vm()
    endings(cloud, "vanish", "0")
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == 0, result.err
    assert len(cloud.runs()) == 2
    assert "the run died without a word" in result.err


def test_a_connection_that_breaks_while_starting_and_watching_ends_nothing(cloud, vm):
    vm()
    cloud.queue("ssh_errors", "connection reset", "connection reset")
    cloud.queue("describe_errors", "", "UNAVAILABLE: try later", "", "UNAVAILABLE: try later")
    result = cloud.run("launch.sh", "--", *WORDS, **BUCKET)
    assert result.code == 0, result.err
    assert len(cloud.runs()) == 1


def test_a_vm_that_does_not_answer_for_long_is_no_longer_watched(cloud, vm):
    vm()
    endings(cloud, "sigterm")
    cloud.queue("ssh_errors", "", *["connection reset"] * 9)
    result = cloud.run("launch.sh", "--", *WORDS, TPU_SILENT_CHECKS="4", **BUCKET)
    assert result.code == 1
    assert "did not answer 4 times. The run goes on there" in result.err


def test_launching_what_runs_already_watches_it_and_another_command_is_refused(cloud, vm):
    vm()
    endings(cloud, "sigterm")
    first = cloud.start("launch.sh", "--", *WORDS, **BUCKET)
    wait_for(cloud.runs)
    other = cloud.run("launch.sh", "--", "probe", "--workdir", "x")
    assert other.code == 1
    assert "another command is running here" in other.err
    second = cloud.start("launch.sh", "--", *WORDS, **BUCKET)
    wait_for(lambda: len(cloud.calls("ssh")) > 6)
    assert cloud.run("stop.sh").code == 0
    for process in first, second:
        err = process.communicate(timeout=20)[1]
        assert process.returncode == 75, err
        assert "stopped by stop.sh" in err
    assert len(cloud.runs()) == 1


def test_another_command_does_not_end_the_run_of_several_hosts(cloud, vm):
    vm(hosts=2, type="v2-16")
    for host in 0, 1:
        endings(cloud, "sigterm", host=host)
    first = cloud.start("launch.sh", "--", *WORDS, TPU_TYPE="v2-16", **BUCKET)
    wait_for(lambda: cloud.runs(0) and cloud.runs(1))
    other = cloud.run("launch.sh", "--", "pretrain", "--workdir", "gs://mine/other", TPU_TYPE="v2-16", **BUCKET)
    assert other.code == 1
    assert "another command is running here" in other.err
    assert cloud.run("status.sh", TPU_TYPE="v2-16").out.count(" alive\n") == 2
    assert cloud.run("stop.sh", TPU_TYPE="v2-16").code == 0
    assert first.wait(timeout=20) == 75


def test_a_run_is_asked_to_stop_once(cloud, vm):
    """By a second SIGTERM it would die while it saves; gcloud itself repeats a command whose connection broke."""
    vm()
    endings(cloud, "sigterm")
    process = cloud.start("launch.sh", "--", *WORDS, **BUCKET)
    wait_for(cloud.runs)
    stops = [cloud.start("stop.sh") for _ in range(2)]
    assert [stop.wait(timeout=20) for stop in stops] == [0, 0]
    assert process.wait(timeout=20) == 75
    assert len(cloud.lines("sigterms")) == 1


def test_several_hosts_run_the_same_command_together(cloud, vm):
    vm(hosts=2, type="v4-16")
    result = cloud.run("launch.sh", "--", *WORDS, TPU_TYPE="v4-16", **BUCKET)
    assert result.code == 0, result.err
    assert cloud.runs(0) == cloud.runs(1) == [[*WORDS[:-1], f"{cloud.root}/gcs/mine/run", "--distributed"]]
    assert cloud.lines("numactl") == ["--membind=0 --cpunodebind=0"] * 2
    assert (cloud.root / "logs/mmdiff/host-1.log").exists()


def test_a_host_that_fails_takes_the_hanging_others_with_it(cloud, vm):
    vm(hosts=2, type="v2-16")
    endings(cloud, "1", "0", host=0)
    endings(cloud, "sigterm", "0", host=1)
    result = cloud.run("launch.sh", "--", *WORDS, TPU_TYPE="v2-16", TPU_GRACE_CHECKS="2", **BUCKET)
    assert result.code == 0, result.err
    assert len(cloud.runs(0)) == len(cloud.runs(1)) == 2
    assert "a host has failed and the others hang" in result.err


def test_a_mistake_on_one_host_is_a_mistake(cloud, vm):
    vm(hosts=2, type="v2-16")
    endings(cloud, "2", host=0)
    endings(cloud, "134", host=1)
    assert cloud.run("launch.sh", "--", *WORDS, TPU_TYPE="v2-16", **BUCKET).code == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (("probe", "--workdir", "gs://mine/x"), "has 2 hosts, and probe runs on one"),
        (("pretrain", "--workdir", "RUN"), "2 hosts need one folder that all see"),
    ],
)
def test_what_several_hosts_cannot_do_is_refused(cloud, vm, words, said):
    vm(hosts=2, type="v2-16")
    result = cloud.run("launch.sh", "--", *words, TPU_TYPE="v2-16", **BUCKET)
    assert result.code == 1
    assert said in result.err
    assert not cloud.runs()


HARD_WORDS = ["with space", "it's", 'say "no"', "$HOME `x` \\", "*", "a;b&c|d", "", "('Sheldon',)", "ü", "two\nlines"]


def test_words_survive_the_way_to_the_host(cloud, vm):
    vm()
    result = cloud.run("launch.sh", "--", "pretrain", *HARD_WORDS)
    assert result.code == 0, result.err
    assert cloud.runs() == [["pretrain", *HARD_WORDS]]


def test_a_command_of_the_variables_is_read_as_a_shell_reads_quotes_and_expands_nothing(cloud, vm):
    vm()
    command = """pretrain --a='x y' "it's" $HOME * --config.anchors.words='("Sheldon",)'"""
    result = cloud.run("launch.sh", TPU_COMMAND=command)
    assert result.code == 0, result.err
    assert cloud.run("launch.sh", TPU_COMMAND=f"mmdiff {command}").code == 0
    assert cloud.runs()[0] == cloud.runs().pop()
    assert cloud.runs()[:1] == [["pretrain", "--a=x y", "it's", "$HOME", "*", '--config.anchors.words=("Sheldon",)']]


def test_buckets_become_folders_and_must_be_mounted(cloud, vm):
    vm()
    words = ("pretrain", "--workdir=gs://mine/run", "--config.data.records=gs://mine/records")
    assert cloud.run("launch.sh", "--", *words, **BUCKET).code == 0
    mount = f"{cloud.root}/gcs/mine"
    assert cloud.runs() == [["pretrain", f"--workdir={mount}/run", f"--config.data.records={mount}/records"]]

    foreign = cloud.run("launch.sh", "--", *words, TPU_BUCKETS="other")
    assert foreign.code == 1
    assert "mine is not in TPU_BUCKETS" in foreign.err

    (cloud.home() / "mounted-mine").unlink()
    unmounted = cloud.run("launch.sh", "--", *words, **BUCKET)
    assert unmounted.code == 1
    assert f"gs://mine is not mounted at {mount}: run setup.sh" in unmounted.err
    assert len(cloud.runs()) == 1


def test_checkpoints_that_a_preemption_would_take_are_warned_of(cloud, vm):
    vm()
    result = cloud.run("launch.sh", "--", "pretrain", "--workdir", "RUN", TPU_SPOT="yes")
    assert result.code == 0
    assert "a pre-emption takes the disk of the VM with all checkpoints in --workdir RUN" in result.err


def test_a_host_that_is_not_set_up_is_said(cloud):
    cloud.give_vm(set_up=False)
    result = cloud.run("launch.sh", "--", "pretrain")
    assert result.code == 1
    assert "mmdiff is not set up: run setup.sh" in result.err


def test_nothing_to_run_is_said(cloud):
    assert "what shall run?" in cloud.run("launch.sh").err
    assert "a quote is not closed" in cloud.run("launch.sh", TPU_COMMAND="pretrain 'x").err


def test_status_and_metrics_of_a_run(cloud, vm):
    vm()
    (cloud.root / "gcs/mine/run/metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": 0.5}\n')
    before = cloud.run("status.sh")
    assert before.code == 0, before.err
    assert before.out.splitlines() == ["mmdiff: READY, v2-8 with 1 host(s), in us-central1-b", "host-0 idle"]
    endings(cloud, "sigterm", "2")
    process = cloud.start("launch.sh", "--", *WORDS, **BUCKET)
    wait_for(cloud.runs)
    assert cloud.run("status.sh").out.splitlines()[1:] == ["host-0 alive", '{"step": 2, "loss": 0.5}']
    cloud.run("stop.sh")
    process.communicate(timeout=20)
    assert cloud.run("status.sh").out.splitlines()[1] == "host-0 stopped 75"
    assert cloud.run("launch.sh", "--", *WORDS, **BUCKET).code == 2
    assert cloud.run("status.sh").out.splitlines()[1] == "host-0 ended 2"


@pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
def test_a_run_outlives_a_real_tmux_and_saves_on_sigterm(cloud, vm):
    """What happens when a VM is shut down: tmux is ended, which hangs up on the run, and everybody gets SIGTERM."""
    tmux = ["tmux", "-S", str(cloud.root / "socket")]
    (cloud.root / "bin/tmux").write_text(
        f'#!/usr/bin/env bash\nexec {shutil.which("tmux")} -S "$FAKE_CLOUD/socket" "$@"\n'
    )
    vm()
    endings(cloud, "sigterm")
    process = cloud.start("launch.sh", "--", *WORDS, **BUCKET)
    wait_for(cloud.runs)
    shell = int(subprocess.check_output([*tmux, "list-panes", "-a", "-F", "#{pane_pid}"]))
    python = int((cloud.home() / "mmdiff-run/pid").read_text())
    process.terminate()
    process.communicate()
    subprocess.run([*tmux, "kill-server"], check=True)
    for pid in shell, python:
        os.kill(pid, signal.SIGTERM)
    wait_for((cloud.home() / "mmdiff-run/ended").exists)
    assert (cloud.home() / "mmdiff-run/ended").read_text() == "75\n"
    assert cloud.run("status.sh").out.splitlines()[1] == "host-0 ended 75"


def wait_for(condition, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
