"""A folder in, a Google Cloud out whose VMs are folders: commands sent to hosts are really run, by bash, with fakes on PATH."""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"
NO_PAUSES = {f"TPU_{name}_PAUSE": "0" for name in ("CREATE", "READY", "SSH", "RESTART")}
NO_PAUSES["TPU_WATCH_PAUSE"] = "0.1"  # looks cost more than the runs that are looked at

# Takes the first line of the file $1 into `line`.
QUEUED = r"""
queued() {
  local lines=()
  line=
  [[ ! -s $1 ]] || mapfile -t lines <"$1"
  ((${#lines[@]})) || return 0
  line=${lines[0]}
  printf '%s\n' "${lines[@]:1}" >"$1"
}
"""

# Records every call; answers from the file `vm`; errors come from queues that a test fills. A taken VM cannot be reached.
GCLOUD = r"""
cd "$FAKE_CLOUD"
{ printf '%s\x1f' "$@"; printf '\x1e'; } >>calls
fail() { echo "ERROR: $1" >&2; exit "${2-1}"; }

if [[ "$1 $2" == 'auth list' ]]; then
  [[ -e logged_out ]] || echo me@example.org
  exit
fi
verb=$4 name=$5
for word; do
  case $word in
    --zone=*) asked=${word#*=} ;;
    --worker=*) worker=${word#*=} ;;
    --command=*) command=${word#*=} ;;
    --accelerator-type=*) type=${word#*=} ;;
  esac
done
zone=
[[ ! -e vm ]] || read -r zone kind state hosts <vm
if [[ $verb == describe && -n $zone ]]; then
  queued states
  [[ -z $line ]] || { state=$line && echo "$zone $kind $state $hosts" >vm; }
fi
queued "${verb}_errors"
if [[ -n $line ]]; then
  [[ $verb != ssh && $verb != scp ]] || fail "$line" 255
  fail "$line"
fi
if [[ $verb == create ]]; then
  [[ $zone != "$asked" ]] || fail "ALREADY_EXISTS: Resource '$name' already exists"
  queued hosts
  for ((host = 0; host < ${line:-1}; host++)); do mkdir -p "homes/host $host"; done
  echo "$asked $type READY ${line:-1}" >vm
  exit
fi
[[ $zone == "$asked" ]] || fail "NOT_FOUND: Resource 'projects/p/locations/$asked/nodes/$name' was not found"
case $verb in
  describe) echo "$state,$kind,$hosts" && exit ;;
  delete)
    for pid in homes/*/mmdiff-run/pid; do
      [[ ! -e $pid ]] || kill -KILL "$(<"$pid")" 2>/dev/null
    done
    mv homes "homes-gone-$$" # what still writes there may
    rm vm
    exit
    ;;
esac
[[ $state == READY ]] || fail 'the TPU is in an unusable state'
codes=0
[[ $worker != all ]] || worker=0..$((hosts - 1))
for ((host = ${worker%..*}; host <= ${worker#*..}; host++)); do
  home=$PWD/homes/host\ $host
  if [[ $verb == scp && $5 == *:* ]]; then
    cp "$home/${5#*:}" "$6" || codes=1
  elif [[ $verb == scp ]]; then
    cp "$5" "$home/${6#*:}"
  else
    (cd "$home" && exec env -i HOME="$home" HOSTNAME="host-$host" FAKE_CLOUD="$FAKE_CLOUD" PATH="$PATH" bash -c "$command")
    code=$?
    ((codes)) || codes=$code
  fi
done
exit "$codes"
"""

# Ends as the next line of its host's queue says: a code; `sigterm`, when told to; `taken`, with the VM; `vanish`, unheard;
# `reboot`, saved, and then nothing is mounted.
MMDIFF = r"""
{ printf '%s\x1f' "$@"; printf '\x1e'; } >>"$FAKE_CLOUD/runs-$HOSTNAME"
echo 'standard output'
echo 'standard error' >&2
queued "$FAKE_CLOUD/endings-$HOSTNAME"
case $line in
  sigterm)
    trap 'echo >>"$FAKE_CLOUD/sigterms"; sleep 0.5; kill $!; exit 75' TERM
    sleep 30 &
    wait
    ;;
  taken)
    read -r zone kind state hosts <"$FAKE_CLOUD/vm"
    echo "$zone $kind PREEMPTED $hosts" >"$FAKE_CLOUD/vm"
    ;;
  reboot)
    rm -f "$HOME"/mounted-*
    exit 75
    ;;
  vanish) # with the shell that would write down how it ended, and with tmux
    rm "$HOME/tmux"
    kill -KILL 0
    ;;
  *) exit "${line:-0}" ;;
esac
exec sleep 30
"""

PROGRAMS = {
    "sudo": """
        echo "$*" >>"$FAKE_CLOUD/sudo"
        while [[ $1 == *=* ]]; do shift; done
        case $1 in
          mkdir | chown | apt-get) "$@" ;;
          tee) cat >/dev/null ;;
        esac""",
    "apt-get": """
        for word; do [[ ! -e $FAKE_CLOUD/archive/$word ]] || cp "$FAKE_CLOUD/archive/$word" "$FAKE_CLOUD/bin/"; done""",
    "curl": """
        case ${!#} in
          *astral.sh*) echo 'mkdir -p "$UV_UNMANAGED_INSTALL" && cp "$FAKE_CLOUD/archive/uv" "$UV_UNMANAGED_INSTALL/"' ;;
          *) echo key ;;
        esac""",
    "mountpoint": '[[ -e $HOME/mounted-${2##*/} ]]',
    "numactl": 'echo "$1 $2" >>"$FAKE_CLOUD/numactl"; shift 2; exec "$@"',
    "ip": "echo 'default via 10.0.0.1 dev ens8 proto dhcp'",
    "tmux": """
        case $1 in
          has-session) [[ -e $HOME/tmux ]] ;;
          kill-session) rm -f "$HOME/tmux" ;;
          new-session)
            touch "$HOME/tmux"
            setsid bash -c '"$@"; rm -f "$HOME/tmux"' - "${@:5}" </dev/null >/dev/null 2>&1 &
            ;;
        esac""",
}  # fmt: skip
ARCHIVE = {  # what is on no fresh VM
    "gcsfuse": 'echo "$*" >>"$FAKE_CLOUD/gcsfuse"; folder=${!#}; touch "$HOME/mounted-${folder##*/}"',
    "uv": """
        echo "$*" >>"$FAKE_CLOUD/uv"
        mkdir -p "${!#}/bin"
        printf '#!/usr/bin/env bash\\necho "$* in $PWD" >>"$FAKE_CLOUD/python"\\n' >"${!#}/bin/python"
        cp "$FAKE_CLOUD/archive/mmdiff" "${!#}/bin/"
        chmod +x "${!#}/bin/python\"""",
}


@dataclass
class Result:
    code: int
    out: str
    err: str


class Cloud:
    """`run` starts a script in it; `queue` decides what comes; `calls` and `runs` say what happened."""

    def __init__(self, root: Path):
        self.root = root
        for name, text in PROGRAMS.items():
            _program(root / "bin" / name, text)
        for name, text in ARCHIVE.items():
            _program(root / "archive" / name, text)
        _program(root / "bin" / "gcloud", QUEUED + GCLOUD)
        _program(root / "archive" / "mmdiff", QUEUED + MMDIFF)

    def run(self, script: str, *arguments: str, timeout: float = 30, **variables: str) -> Result:
        process = self.start(script, *arguments, **variables)
        out, err = process.communicate(timeout=timeout)
        return Result(process.returncode, out, err)

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
        environment = kept | NO_PAUSES | {"TPU_MOUNT": str(self.root / "gcs"), "TPU_LOGS": str(self.root / "logs")}
        environment |= {"FAKE_CLOUD": str(self.root), "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"} | variables
        return subprocess.Popen(
            [SCRIPTS / script, *arguments],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def queue(self, name: str, *lines: str) -> None:
        (self.root / name).write_text("".join(line + "\n" for line in lines))

    def calls(self, verb: str | None = None) -> list[list[str]]:
        """The words of every call of gcloud, or of those of one verb."""
        calls = self.commands("calls")
        return calls if verb is None else [call for call in calls if call[3:4] == [verb]]

    def verbs(self) -> list[str]:
        """What was done with the VM, without looks at it."""
        return [call[3] for call in self.calls() if call[3] in ("create", "delete", "scp")]

    def runs(self, host: int = 0) -> list[list[str]]:
        """The words that mmdiff was started with on a host, one list a start."""
        return self.commands(f"runs-host-{host}")

    def commands(self, name: str) -> list[list[str]]:
        path = self.root / name
        return [call.split("\x1f")[:-1] for call in path.read_text().split("\x1e")[:-1]] if path.exists() else []

    def lines(self, name: str) -> list[str]:
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []

    def home(self, host: int = 0) -> Path:
        return self.root / "homes" / f"host {host}"

    @property
    def vm(self) -> dict | None:
        lines = self.lines("vm")
        return dict(zip(("zone", "type", "state", "hosts"), lines[0].split(), strict=True)) if lines else None

    def give_vm(self, hosts: int = 1, type: str = "v2-8", state: str = "READY", set_up: bool = True) -> None:
        """A VM as create.sh and setup.sh leave it."""
        (self.root / "vm").write_text(f"us-central1-b {type} {state} {hosts}\n")
        for host in range(hosts):
            home = self.home(host)
            (home / "mmdiff" / "configs").mkdir(parents=True)
            (home / "mmdiff-venv" / "bin").mkdir(parents=True)
            if set_up:
                shutil.copy(SCRIPTS / "host.sh", home / "mmdiff-host.sh")
                shutil.copy(self.root / "archive" / "mmdiff", home / "mmdiff-venv" / "bin")

    def close(self) -> None:
        for pid in self.root.glob("homes/*/mmdiff-run/pid"):
            try:
                os.kill(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
