#!/usr/bin/env bash
# Says what state the VM is in, whether the run is alive on each host or how it ended, and its last line of metrics.
#
#     tpu_scripts/status.sh [--variables FILE] [--dry-run]
#
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options "" "$@"
logged_in
find_vm_or_die
[[ -n $DRY_RUN ]] || echo "$TPU_NAME: $STATE, $TYPE with $HOSTS host(s), in $ZONE"
! was_taken || die "$TPU_NAME was pre-empted: launch.sh makes a new one and goes on"
[[ $STATE == READY ]] || exit 0

everybody=yes
look_at_hosts || everybody=
[[ -z $RUNS ]] || printf '%s\n' "$RUNS"
if [[ -z $everybody ]]; then
  sed 's/^/  /' "$ERRORS" >&2
  die "not every host answered: is $TPU_NAME set up (setup.sh)?"
fi
on_hosts 0 metrics || die_of_hosts $?
