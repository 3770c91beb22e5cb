# shellcheck shell=bash
# Everything that the scripts beside this file are told; each reads it at its start, none is run with other settings.
#
# Three ways to change a variable, the first that speaks is heard:
#   --variables FILE     a line NAME=value in FILE. Copy the lines you change, not this whole file.
#   the environment      TPU_TYPE=v3-8 tpu_scripts/create.sh
#   here                 the value between := and }
# A value with several words is one string: TPU_ZONES='us-central1-b us-central1-c'.

# --- the machine ---
: "${TPU_NAME:=mmdiff}"            # what the VM is called
: "${TPU_ZONES:=us-central1-b}"    # where to look for it and to ask for it; with several, each in turn
: "${TPU_TYPE:=v2-8}"              # generation and size: v2-8 v3-8 v4-8 v5e-8 v5p-8 v6e-8; above 8 it has several hosts
: "${TPU_SPOT:=no}"                # yes: much cheaper, and taken away at any time; the run then goes on on a new VM
: "${TPU_RUNTIME:=}"               # image of the VM; empty: the one that Google names for JAX on this generation
: "${TPU_PROJECT:=}"               # Google Cloud project that pays; empty: gcloud's own setting
: "${TPU_CREATE_FLAGS:=}"          # more words for `gcloud ... create`: --network=NET --service-account=WHO --reserved
: "${TPU_SSH_FLAGS:=}"             # more words for `gcloud ... ssh` and `scp`: --internal-ip --ssh-key-file=FILE

# --- buckets: gs://BUCKET/x in a command becomes TPU_MOUNT/BUCKET/x on every host ---
: "${TPU_BUCKETS:=}"               # names of buckets to mount, without gs://; of the same region as the zone, or it is slow
: "${TPU_MOUNT:=/mnt/gcs}"         # folder on the hosts that they are mounted in
: "${TPU_RENAME_LIMIT:=100000}"    # gcsfuse refuses to rename a folder of more files; saving a checkpoint renames one
: "${TPU_GCSFUSE_FLAGS:=}"         # more words for gcsfuse: --cache-dir=/tmp/gcsfuse --file-cache-max-size-mb=20000

# --- the code ---
: "${TPU_CODE:=}"                  # URL of a git repository; empty: this checkout as it is, with what is not committed
: "${TPU_BRANCH:=main}"            # branch or tag of that URL
: "${TPU_PYTHON:=3.11}"            # the Python that constraints.txt was tested with; it is installed beside the image's

# --- the run ---
: "${TPU_COMMAND:=}"               # words behind `mmdiff`, quoted as in a shell; or give them to launch.sh behind --
: "${TPU_RESTARTS:=20}"            # restarts of any kind before launch.sh gives up: pre-emptions, notices, crashes
: "${TPU_CRASHES:=3}"              # how many of them may be crashes: a crash tends to come again
: "${TPU_NUMA:=yes}"               # v4 and v5p: keep the process on the first memory node (numactl)
: "${TPU_LOGS:=runs/tpu_logs}"     # folder here that the hosts' logs are copied to; below this checkout if relative

# --- patience: how often, and how many seconds (PAUSE) between ---
: "${TPU_CREATE_TRIES:=60}"        # rounds through all zones while there is no capacity
: "${TPU_CREATE_PAUSE:=60}"        # between two rounds
: "${TPU_READY_CHECKS:=90}"        # looks at a VM that was asked for, until it is READY
: "${TPU_READY_PAUSE:=10}"         # between two looks
: "${TPU_SSH_TRIES:=5}"            # tries of a connection that breaks; gcloud itself tries ten times within each
: "${TPU_SSH_PAUSE:=15}"           # between two tries
: "${TPU_WATCH_PAUSE:=30}"         # between two looks at a run
: "${TPU_SILENT_CHECKS:=60}"       # looks at a run that nobody answers, before launch.sh stops watching it
: "${TPU_GRACE_CHECKS:=10}"        # looks that the other hosts get to end by themselves when one has failed
: "${TPU_RESTART_PAUSE:=60}"       # before a restart: a VM that is being pre-empted still says READY for a moment
