#!/usr/bin/env bash
# Runs `mmdiff WORDS` on every host, watches it, and goes on from the last checkpoint when it was cut off.
#
#     tpu_scripts/launch.sh [--variables FILE] [--dry-run] [-- WORDS...]
#
#     tpu_scripts/launch.sh -- pretrain --config configs/tvqa.py:difference_both --workdir gs://BUCKET/runs/1 \
#         --config.data.records=gs://BUCKET/records --config.data.tokenizer=gs://BUCKET/lowercase_encoder.json
#
# WORDS are TPU_COMMAND if there are none; gs://BUCKET/x becomes TPU_MOUNT/BUCKET/x. The run lives in tmux on the hosts:
# closing this script does not end it, and the same command again watches it again. With several hosts, --distributed is
# added. Ends with what the run ended with:
#
#     0    done                      2    a mistake of the user: not started again
#     75   stopped by stop.sh, or hosts that cannot be reached now: the same command later
#     130  Ctrl-C, here or on a host
#     else crashed TPU_CRASHES times too often, or 1: could not be started or watched
#
# A VM that was pre-empted is deleted, created, set up and started again; a run that got SIGTERM (75), died unheard or
# crashed is started again: TPU_RESTARTS times at most.
#
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options "" "$@"

if ((${#REST[@]})); then
  words=("${REST[@]}")
else # quotes and backslashes hold as in a shell, nothing else is expanded
  unquoted=$(xargs printf '%s\n' <<<"$TPU_COMMAND" 2>/dev/null) || die "TPU_COMMAND=$TPU_COMMAND: a quote is not closed"
  readarray -t words <<<"$unquoted"
fi
[[ ${words[0]} != mmdiff ]] || words=("${words[@]:1}")
[[ -n ${words[0]-} ]] || die "what shall run? Give TPU_COMMAND, or: launch.sh -- pretrain --config FILE --workdir gs://BUCKET/RUN ..."

# gs://BUCKET/x becomes its place below TPU_MOUNT.
read -ra buckets <<<"$TPU_BUCKETS"
workdir=''
for index in "${!words[@]}"; do
  word=${words[index]}
  while [[ $word =~ gs://([^/]+) ]]; do
    bucket=${BASH_REMATCH[1]}
    [[ " ${buckets[*]} " == *" $bucket "* ]] || die "${words[index]}: $bucket is not in TPU_BUCKETS, so setup.sh does not mount it"
    word=${word/gs:\/\//$TPU_MOUNT/}
  done
  words[index]=$word
  case $word in
    --workdir) workdir=${words[index + 1]-} ;;
    --workdir=*) workdir=${word#*=} ;;
  esac
done
used=()
for bucket in "${buckets[@]}"; do
  [[ "${words[*]} " != *"$TPU_MOUNT/$bucket"[/\ ]* ]] || used+=("$bucket")
done
workdir=${workdir/#gs:\/\//$TPU_MOUNT/}
if [[ $TPU_SPOT == yes && $workdir != "$TPU_MOUNT"/* ]]; then
  say "warning: a pre-emption takes the disk of the VM with all checkpoints in --workdir ${workdir:-(none)}; give it a folder of a bucket"
fi

numactl=''
[[ $TPU_NUMA == no || $TPU_TYPE != @(v4|v5p)-* ]] || numactl="numactl --membind=0 --cpunodebind=0"

# --- one life of the run ---

start_on_hosts() {
  local code=0 all=("${words[@]}")
  if ((HOSTS > 1)); then
    [[ ${words[0]} == pretrain ]] || die "$TPU_NAME has $HOSTS hosts, and ${words[0]} runs on one: take a TPU_TYPE of at most 8"
    [[ $workdir == /* ]] || die "--workdir $workdir: $HOSTS hosts need one folder that all see, such as gs://BUCKET/RUN"
    [[ " ${words[*]} " == *" --distributed "* ]] || all+=(--distributed)
  fi
  on_hosts all "TPU_BUCKETS=${used[*]}" "TPU_MOUNT=$TPU_MOUNT" "TPU_NUMACTL=$numactl" start "${all[@]}" || code=$?
  if ((code == FAILED_ON_HOST && HOSTS > 1)); then
    on_hosts all kill "${all[@]}" || true # those that did start would wait for the others for ever; no other run is meant
  fi
  return "$code"
}

# Watches until the run has ended; OUTCOME is its exit code, `stopped`, `lost` or `taken`.
watch() {
  local silent=0 patience=$TPU_GRACE_CHECKS said='' code
  note "every $TPU_WATCH_PAUSE s, until it has ended:"
  while true; do
    code=0
    find_vm "${ZONES[@]}" || code=$?
    ((code != 1)) || die "somebody deleted $TPU_NAME: not started again"
    if ((code == 0)) && was_taken; then
      OUTCOME=taken
      return
    elif ((code == 0)) && [[ $STATE == STOPP* || $STATE == DELETING ]]; then
      die "somebody stopped $TPU_NAME ($STATE): not started again"
    elif ((code == 0)) && [[ $STATE != READY ]]; then
      [[ $STATE == "$said" ]] || say "$TPU_NAME is $STATE: waiting"
      said=$STATE silent=0
    elif ((code == 0)) && look_at_hosts; then
      said='' silent=0
      if [[ -n $DRY_RUN ]]; then
        OUTCOME=0
        return
      elif ! grep -q ' alive$' <<<"$RUNS"; then
        judge
        return
      elif grep -Eq ' (lost|idle|(ended|stopped) [1-9][0-9]*)$' <<<"$RUNS" && ((patience-- == 0)); then
        say "a host has failed and the others hang: ending them"
        on_hosts all kill || true
        judge
        return
      fi
    elif ((++silent >= TPU_SILENT_CHECKS)); then
      sed 's/^/  /' "$ERRORS" >&2
      die "$TPU_NAME did not answer $silent times. The run goes on there: the same launch.sh watches it again"
    fi
    pause "$TPU_WATCH_PAUSE"
  done
}

# How the run ended, of how it ended on each host: what must not be started again comes first, then crashes.
judge() {
  local codes
  codes=$(sed -En 's/.* (ended|stopped) //p' <<<"$RUNS" | sort -un)
  if grep -qx 2 <<<"$codes"; then
    OUTCOME=2
  elif grep -q ' stopped ' <<<"$RUNS"; then
    OUTCOME=stopped
  elif grep -qx 130 <<<"$codes"; then
    OUTCOME=130
  elif grep -Evqx '0|75|' <<<"$codes"; then
    OUTCOME=$(grep -Evx '0|75|' <<<"$codes" | head -n 1)
  elif grep -Eq ' (lost|idle|alive)$' <<<"$RUNS"; then
    OUTCOME=lost
  elif grep -qx 75 <<<"$codes"; then
    OUTCOME=75
  else
    OUTCOME=0
  fi
}

# The new VM's logs begin anew, and would be copied over what was fetched.
keep_old_logs() {
  local log now
  [[ -z $DRY_RUN ]] || return 0
  now=$(date -u +%Y%m%dT%H%M%SZ)
  for log in "$TPU_LOGS/$TPU_NAME"/host-*[0-9].log; do
    [[ ! -e $log ]] || mv "$log" "${log%.log}.until-$now.log"
  done
}

# A new VM, set up, in the place of one that was taken away; or, of a new one, what is still to do. 75 if not possible now.
replace_vm() {
  if find_vm "${ZONES[@]}" && { was_taken || [[ -n $DRY_RUN ]]; }; then
    "$HERE/delete.sh" --yes "${ON_TO_OTHERS[@]}" || return
    keep_old_logs
  fi
  "$HERE/create.sh" "${ON_TO_OTHERS[@]}" || return
  "$HERE/setup.sh" "${ON_TO_OTHERS[@]}" || return "$TRY_LATER" # it went well before: the network, say
}

# --- from the first life to the last ---

logged_in
trap 'say "no longer watching. The run goes on: the same launch.sh watches it again, stop.sh ends it"; exit 130' INT
restarts=0 crashes=0
replacing='' # yes while the VM that we had is gone and no other is set up
started=''   # yes once a run was started
counted=''   # yes while the restart that is being made is counted

# again REASON: counts a restart, and gives up after too many.
again() {
  ((++restarts <= TPU_RESTARTS)) || die "$1; it was started again TPU_RESTARTS=$TPU_RESTARTS times: giving up. The same launch.sh goes on from the last checkpoint"
  say "$1: restart $restarts of at most $TPU_RESTARTS in $TPU_RESTART_PAUSE s, from the last checkpoint"
  pause "$TPU_RESTART_PAUSE"
  counted=yes
}

# After a reboot, say, when buckets are not mounted.
set_up_again() { "$HERE/setup.sh" "${ON_TO_OTHERS[@]}" || say "could not set it up again"; }

while true; do
  [[ -n $replacing ]] || find_vm_or_die
  if [[ -n $replacing ]] || was_taken; then
    [[ -n $counted ]] || again "$TPU_NAME was pre-empted"
    replacing=yes code=0
    replace_vm || code=$?
    if ((code == TRY_LATER)); then
      again "no new VM that is set up yet"
      continue
    fi
    ((code == 0)) || exit "$code"
    replacing=''
    find_vm_or_die
  fi
  # Being repaired, say: create.sh waits for what exists.
  if [[ $STATE != READY ]]; then
    code=0
    "$HERE/create.sh" "${ON_TO_OTHERS[@]}" || code=$?
    if ((code == TRY_LATER)); then
      again "$TPU_NAME is not READY"
      continue
    fi
    ((code == 0)) || exit "$code"
  fi

  code=0
  start_on_hosts || code=$?
  if ((code == UNREACHABLE)) && [[ -n $started ]]; then
    again "cannot reach $TPU_NAME"
    continue
  fi
  if ((code == FAILED_ON_HOST)) && [[ -n $started ]]; then
    again "the run could not be started again"
    set_up_again
    continue
  fi
  ((code == 0)) || die_of_hosts "$code"
  started=yes counted=''
  tell "$TPU_NAME runs: mmdiff ${words[*]}"
  watch
  [[ $OUTCOME == taken ]] || "$HERE/logs.sh" "${ON_TO_OTHERS[@]}" || true
  if [[ -n $DRY_RUN ]]; then
    note "if the VM was pre-empted, and before the run is started again:"
    replace_vm
    exit
  fi

  case $OUTCOME in
    0)
      say "done. The VM costs money until delete.sh"
      exit 0
      ;;
    2)
      say "the command is mistaken: the log says how. Not started again"
      exit 2
      ;;
    130)
      say "ended by Ctrl-C on a host: not started again"
      exit 130
      ;;
    stopped)
      say "stopped by stop.sh: the same launch.sh goes on from there"
      exit 75
      ;;
    taken)
      again "$TPU_NAME was pre-empted"
      replacing=yes
      ;;
    75) again "the run was told to end, and saved" ;;
    lost)
      again "the run died without a word"
      on_hosts all kill || true
      set_up_again
      ;;
    *)
      if ((++crashes > TPU_CRASHES)); then
        say "the run crashed with code $OUTCOME, more than TPU_CRASHES=$TPU_CRASHES times: giving up. The log says how"
        exit "$OUTCOME"
      fi
      again "the run crashed with code $OUTCOME"
      ;;
  esac
done
