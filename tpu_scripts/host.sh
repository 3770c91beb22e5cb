#!/usr/bin/env bash
# The half that runs on every host of a TPU VM: setup.sh copies it there as ~/mmdiff-host.sh.
#
#     bash mmdiff-host.sh setup            Python, packages, buckets and settings; what is there already costs nothing
#     bash mmdiff-host.sh start WORDS...   `mmdiff WORDS` in tmux; nothing if just that is running
#     bash mmdiff-host.sh state            one line: alive, ended CODE, stopped CODE, lost (it died unheard), idle
#     bash mmdiff-host.sh metrics          the last line of the run's metrics.jsonl
#     bash mmdiff-host.sh stop             asks the run to save and end (SIGTERM), once
#     bash mmdiff-host.sh kill [WORDS...]  ends it at once; with words, only if it is `mmdiff WORDS`
#
# Its settings come as variables of the environment, named as in variables.sh. It ends with 3 when it failed and said why.
set -euo pipefail

code=$HOME/mmdiff     # the repository
venv=$HOME/mmdiff-venv
run=$HOME/mmdiff-run  # where the command runs: its output.log, how it ended, and whatever has a relative path

# Any other code means to the caller that the connection broke.
trap '(($? == 0)) || exit 3' EXIT

say() { printf '%s: %s\n' "$HOSTNAME" "$*"; }

die() {
  say "$@" >&2
  exit 3
}

alive() { tmux has-session -t =mmdiff 2>/dev/null; }

command_of() { printf '%q ' "$venv/bin/mmdiff" "$@"; }

# --- setup ---

setup() {
  ! alive || die "a run is alive: setting up would change the code below it. Run stop.sh first"
  settings
  packages
  local bucket
  for bucket in ${TPU_BUCKETS-}; do
    mount_bucket "$bucket"
  done
  fetch_code
  install
  say "is set up"
}

# Failing here costs speed, not the run.
settings() {
  local route
  # jax asks for this on v5e and newer: the TPU's runtime starts and ends faster.
  if [[ $TPU_TYPE != v[234]-* && $(cat /sys/kernel/mm/transparent_hugepage/enabled) != *'[always]'* ]]; then
    sudo sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled' || say "cannot turn on large pages"
  fi
  # What MaxText recommends between hosts: lost packets are sent again after 5 ms, and an idle connection stays fast.
  if ((TPU_HOSTS > 1)); then
    sudo sysctl --quiet -w net.ipv4.tcp_slow_start_after_idle=0 net.ipv4.tcp_no_metrics_save=1 || say "cannot set sysctl"
    read -ra route < <(ip route show default) || true
    if [[ ${#route[@]} -gt 0 && " ${route[*]} " != *" rto_min "* ]]; then
      sudo ip route change "${route[@]}" rto_min 5ms || say "cannot change the route"
    fi
  fi
}

# A fresh VM updates itself in its first minutes, and holds the lock of apt that long.
apt() {
  local try
  for try in 1 2 3 4 5 6; do
    sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" && return
    sleep $((try * 10))
  done
  die "apt-get $1 failed"
}

packages() {
  local name missing=()
  for name in curl git tmux numactl; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  if [[ -n ${TPU_BUCKETS-} ]] && ! command -v gcsfuse >/dev/null; then
    missing+=(gcsfuse)
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/gcsfuse.asc >/dev/null
    # shellcheck source=/dev/null
    echo "deb [signed-by=/usr/share/keyrings/gcsfuse.asc] https://packages.cloud.google.com/apt gcsfuse-$(. /etc/os-release && echo "$VERSION_CODENAME") main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  fi
  ((${#missing[@]} == 0)) || { apt update && apt install -y "${missing[@]}"; }
}

# --implicit-dirs: folders that were uploaded, not made through a mount, are seen. --rename-dir-limit: without it a bucket
# without a hierarchical namespace renames no folder, and Orbax renames each checkpoint when it is whole. No metadata is
# cached: hosts look for folders that another host made, and on TPU machines gcsfuse may else keep what it saw for ever.
mount_bucket() {
  local folder=$TPU_MOUNT/$1 flags
  if ! mountpoint -q "$folder"; then
    sudo umount -l "$folder" 2>/dev/null || true # a gcsfuse that died leaves a mount that nobody can enter
    sudo mkdir -p "$folder"
    sudo chown "$(id -u):$(id -g)" "$folder"
    read -ra flags <<<"${TPU_GCSFUSE_FLAGS-}"
    gcsfuse --implicit-dirs "--rename-dir-limit=$TPU_RENAME_LIMIT" --metadata-cache-ttl-secs=0 \
      --metadata-cache-negative-ttl-secs=0 "${flags[@]}" "$1" "$folder" ||
      die "cannot mount gs://$1: does it exist, and may the VM's service account read and write it?"
  fi
  if ! { : >"$folder/.mmdiff-$HOSTNAME" && rm "$folder/.mmdiff-$HOSTNAME"; } 2>/dev/null; then
    say "gs://$1 can be read, not written: enough for records, not for --workdir"
  fi
}

fetch_code() {
  rm -rf "$code.new"
  if [[ -n ${TPU_CODE-} ]]; then
    git clone --quiet --depth 1 --branch "$TPU_BRANCH" -- "$TPU_CODE" "$code.new" ||
      die "cannot clone $TPU_BRANCH of $TPU_CODE: is it public, is the branch right?"
  else
    mkdir "$code.new"
    tar -xzf "$HOME/mmdiff-code.tar.gz" -C "$code.new" || die "the code did not arrive whole: run setup.sh again"
  fi
  rm -rf "$code"
  mv "$code.new" "$code"
}

# uv brings Python as one archive that needs neither root nor apt; a package archive such as deadsnakes has to know the
# image's release of Ubuntu, and apt is often locked on a fresh VM. Packages are then pip's, as everywhere in this project.
install() {
  local uv=$HOME/.local/bin/uv
  if [[ ! -x $uv ]]; then
    curl -LsSf https://astral.sh/uv/install.sh | env UV_UNMANAGED_INSTALL="$HOME/.local/bin" sh || die "cannot install uv"
  fi
  [[ -x $venv/bin/python ]] || "$uv" venv --quiet --seed --python "$TPU_PYTHON" "$venv" || die "cannot install Python $TPU_PYTHON"
  (cd "$code" && "$venv/bin/python" -m pip install --quiet -c constraints.txt '.[tpu]') || die "pip failed"
}

# --- a run ---

start() {
  local bucket word workdir='' command
  [[ -x $venv/bin/mmdiff ]] || die "is not set up: run setup.sh"
  for bucket in ${TPU_BUCKETS-}; do
    mountpoint -q "$TPU_MOUNT/$bucket" || die "gs://$bucket is not mounted at $TPU_MOUNT/$bucket: run setup.sh"
  done
  mkdir -p "$run"
  ln -sfn "$code/configs" "$run/configs"

  command=$(command_of "$@")
  if alive; then
    [[ $command == "$(cat "$run/command")" ]] || die "another command is running here: $(cat "$run/command"). Run stop.sh first"
    say "is running it already"
    return
  fi
  while (($#)); do
    word=$1
    shift
    case $word in
      --workdir) workdir=${1-} ;;
      --workdir=*) workdir=${word#*=} ;;
    esac
  done
  [[ -z $workdir || $workdir == /* ]] || workdir=$run/$workdir

  rm -f "$run"/{ended,stopped,pid}
  printf '%s\n' "$command" >"$run/command"
  printf '%s\n' "$workdir" >"$run/workdir"
  # A VM that is shut down ends tmux, which hangs up on the run, and sends SIGTERM to everybody: the run must not die of
  # the first, and saves on the second; this shell lives on to write down how it ended. Subshells get SIGTERM's default back.
  cat >"$run/run.sh" <<END
trap '' HUP
trap : TERM
cd $(printf %q "$run")
printf '== %s %s: %s\n' "\$(date -u +%FT%TZ)" "\$HOSTNAME" $(printf %q "$command") >>output.log
(
  echo "\$BASHPID" >pid
  exec ${TPU_NUMACTL-} $command
) >>output.log 2>&1
code=\$?
printf '== %s %s: ended with %s\n' "\$(date -u +%FT%TZ)" "\$HOSTNAME" "\$code" >>output.log
echo "\$code" >ended.new && mv ended.new ended
if [[ -d $(printf %q "$workdir") ]]; then
  mkdir -p $(printf %q "$workdir/logs") && cp output.log $(printf %q "$workdir/logs")/"\$HOSTNAME.log"
fi
END
  tmux new-session -d -s mmdiff bash "$run/run.sh" || die "tmux failed"
  say "started"
}

state() {
  local how=idle
  if alive; then
    how=alive
  elif [[ -f $run/ended ]]; then
    how="ended $(cat "$run/ended")"
    [[ ! -f $run/stopped ]] || how="stopped $(cat "$run/ended")"
  elif [[ -f $run/command ]]; then
    how=lost
  fi
  echo "mmdiff-host $HOSTNAME $how"
}

metrics() {
  local file
  [[ -f $run/workdir ]] || return 0
  file=$(cat "$run/workdir")/metrics.jsonl
  if [[ -s $file ]]; then tail -n 1 "$file"; fi
}

# Asked again, also by a connection that broke and is tried again, it does nothing: a second SIGTERM would kill the run.
stop() {
  local try
  # One step decides who was first, though two may ask at the same moment.
  alive && (set -o noclobber && : >"$run/stopped") 2>/dev/null || return 0
  for ((try = 0; try < 50; try++)); do # just started: tmux is there, its process not yet
    [[ ! -s $run/pid ]] || break
    sleep 0.1
  done
  kill -TERM "$(cat "$run/pid")" 2>/dev/null || true
}

kill_run() {
  local pid
  if (($#)) && [[ "$(command_of "$@")" != "$(cat "$run/command" 2>/dev/null)" ]]; then return; fi
  pid=$(cat "$run/pid" 2>/dev/null) || true
  # After a reboot the number may be somebody else's.
  if [[ -n $pid && "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" == *@("$venv/bin/"|"$run/run.sh")* ]]; then
    kill -KILL "$pid" 2>/dev/null || true
  fi
  tmux kill-session -t =mmdiff 2>/dev/null || true
}

case ${1-} in
  setup | start | state | metrics | stop) "$@" ;;
  kill) kill_run "${@:2}" ;;
  *) die "setup, start, state, metrics, stop or kill; not ${1-}" ;;
esac
