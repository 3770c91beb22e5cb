#!/usr/bin/env bash
# Gives the VM back, with everything on its disk. What is in buckets stays. No VM of this name: nothing to do.
#
#     tpu_scripts/delete.sh [--yes] [--variables FILE] [--dry-run]
#
#     --yes              do not ask
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options --yes "$@"
logged_in

found=
for zone in "${ZONES[@]}"; do
  find_vm_patiently "$zone" || continue
  found=yes
  if [[ -z $DRY_RUN ]] && ! given --yes; then
    [[ -t 0 ]] || die "delete $TPU_NAME ($STATE) in $zone? Nobody can be asked here: add --yes"
    read -rp "Delete $TPU_NAME ($STATE) in $zone, with its disk? [y/N] " answer || answer=
    [[ $answer == [yY]* ]] || die "$TPU_NAME was not deleted, and costs money"
  fi
  for ((try = 1; ; try++)); do
    ! tpu delete "$TPU_NAME" 2>"$ERRORS" || break
    read_error
    [[ $KIND != absent ]] || break
    if [[ $KIND != retry ]] || ((try >= TPU_SSH_TRIES)); then die_of_gcloud; fi
    pause "$TPU_SSH_PAUSE"
  done
  tell "$TPU_NAME in $zone is deleted"
done
[[ -n $found ]] || say "there is no $TPU_NAME in $TPU_ZONES: nothing to delete"
