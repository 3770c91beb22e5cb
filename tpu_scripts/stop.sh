#!/usr/bin/env bash
# Asks the run to save and end, and waits for it. The VM stays, and costs money: see delete.sh.
#
#     tpu_scripts/stop.sh [--variables FILE] [--dry-run]
#
# A launch.sh that watches the run sees that it was meant, and does not start it again. Launching the same command goes on.
#
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options "" "$@"
logged_in
ready_vm_or_die
on_hosts all stop || die_of_hosts $?

note "every $TPU_WATCH_PAUSE s, until it has ended:"
for ((check = 1; check <= TPU_GRACE_CHECKS; check++)); do
  if look_at_hosts && ! grep -q ' alive$' <<<"$RUNS"; then
    [[ -z $RUNS ]] || printf '%s\n' "$RUNS"
    exit 0
  fi
  pause "$TPU_WATCH_PAUSE"
done
die "the run is still alive after $TPU_GRACE_CHECKS looks: see logs.sh --follow"
