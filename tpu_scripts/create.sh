#!/usr/bin/env bash
# Rents a TPU VM and waits until it is READY. It costs money from then on, until delete.sh.
#
#     tpu_scripts/create.sh [--variables FILE] [--dry-run]
#
# Where there is no capacity or the quota is used up it tries the zones of TPU_ZONES in turn, again and again with a pause.
# It gives up at once on what waiting does not help: no permission, a type that no zone offers, a wrong image. A VM of this
# name that is there already is kept. Ends with 75 when it may be tried again later.
#
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options "" "$@"

wait_until_ready() {
  local check
  for ((check = 1; check <= TPU_READY_CHECKS; check++)); do
    if find_vm "${ZONES[@]}"; then
      if [[ $STATE == READY ]]; then
        [[ $TYPE == "$TPU_TYPE" || -z $TYPE ]] || die "$TPU_NAME in $ZONE is a $TYPE, not $TPU_TYPE: take another TPU_NAME, or run delete.sh"
        tell "$TPU_NAME is READY in $ZONE: $TPU_TYPE with $HOSTS host(s). It costs money until delete.sh"
        exit 0
      elif was_taken; then
        say "$TPU_NAME in $ZONE was pre-empted ($STATE): run delete.sh, then create.sh"
        exit "$TRY_LATER"
      elif [[ $STATE == STOPP* || $STATE == DELETING ]]; then
        die "$TPU_NAME in $ZONE is $STATE: run delete.sh, then create.sh"
      fi
      say "$TPU_NAME in $ZONE is $STATE: waiting"
    elif [[ $KIND == stop ]]; then
      die_of_gcloud
    fi
    pause "$TPU_READY_PAUSE"
  done
  say "$TPU_NAME is not READY after $TPU_READY_CHECKS looks: see status.sh"
  exit "$TRY_LATER"
}

logged_in
read -ra extra <<<"$TPU_CREATE_FLAGS"
if find_vm_patiently "${ZONES[@]}" && [[ -z $DRY_RUN ]]; then
  say "$TPU_NAME exists in $ZONE ($STATE): not creating another"
  wait_until_ready
fi

[[ $TPU_SPOT == no ]] || extra+=(--spot)
zones=("${ZONES[@]}")
for ((try = 1; try <= TPU_CREATE_TRIES; try++)); do
  hopeful=() # zones that may have one later
  for ZONE in "${zones[@]}"; do
    if tpu create "$TPU_NAME" "--accelerator-type=$TPU_TYPE" "--version=$TPU_RUNTIME" "${extra[@]}" 2>"$ERRORS"; then
      note "no capacity: the same in every zone of '$TPU_ZONES', $TPU_CREATE_TRIES times, every $TPU_CREATE_PAUSE s"
      note "then, until it is READY:"
      wait_until_ready
    fi
    read_error
    case $KIND in
      exists) wait_until_ready ;;
      zone) ;;
      retry) hopeful+=("$ZONE") ;;
      *)
        [[ $KIND != absent ]] || ADVICE="something that the request names does not exist"
        die_of_gcloud
        ;;
    esac
    say "$ADVICE"
  done
  zones=("${hopeful[@]}")
  ((${#zones[@]})) || die "no zone of TPU_ZONES=$TPU_ZONES can have a $TPU_TYPE"
  if ((try < TPU_CREATE_TRIES)); then
    say "round $try of $TPU_CREATE_TRIES brought none; the next in $TPU_CREATE_PAUSE s"
    pause "$TPU_CREATE_PAUSE"
  fi
done
say "no $TPU_TYPE in $TPU_ZONES after $TPU_CREATE_TRIES rounds: try later, or give TPU_ZONES more zones"
exit "$TRY_LATER"
