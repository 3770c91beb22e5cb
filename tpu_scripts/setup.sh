#!/usr/bin/env bash
# Makes every host of the VM ready to train: Python, the code, its packages, buckets, settings. Safe to run again.
#
#     tpu_scripts/setup.sh [--variables FILE] [--dry-run]
#
# The code is this checkout as it is, without what git ignores, or TPU_CODE. What happens on the hosts stands in
# tpu_scripts/host.sh.
#
#     --variables FILE   settings that differ from tpu_scripts/variables.sh
#     --dry-run          print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
options "" "$@"
logged_in
ready_vm_or_die

# copy_to_hosts FILE NAME: into the home folder of every host.
copy_to_hosts() {
  local try
  for ((try = 1; ; try++)); do
    tpu scp "$1" "$TPU_NAME:$2" --worker=all "${SSH_FLAGS[@]}" && return
    ((try < TPU_SSH_TRIES)) || die_of_hosts "$UNREACHABLE"
    say "copying to $TPU_NAME broke: try $((try + 1)) of $TPU_SSH_TRIES in $TPU_SSH_PAUSE s"
    pause "$TPU_SSH_PAUSE"
  done
}

copy_to_hosts "$HERE/host.sh" mmdiff-host.sh
if [[ -z $TPU_CODE ]]; then
  archive=${TMPDIR:-/tmp}/mmdiff-code.$$.tar.gz
  trap 'rm -f "$ERRORS" "$archive"' EXIT
  run "$HERE/pack_code.sh" "$archive"
  copy_to_hosts "$archive" mmdiff-code.tar.gz
fi

code=0
on_hosts all "TPU_TYPE=$TPU_TYPE" "TPU_HOSTS=$HOSTS" "TPU_BUCKETS=$TPU_BUCKETS" "TPU_MOUNT=$TPU_MOUNT" \
  "TPU_RENAME_LIMIT=$TPU_RENAME_LIMIT" "TPU_GCSFUSE_FLAGS=$TPU_GCSFUSE_FLAGS" "TPU_CODE=$TPU_CODE" \
  "TPU_BRANCH=$TPU_BRANCH" "TPU_PYTHON=$TPU_PYTHON" setup || code=$?
((code == 0)) || die_of_hosts "$code"
tell "$TPU_NAME is set up: run launch.sh"
