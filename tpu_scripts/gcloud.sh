# shellcheck shell=bash
# What the scripts share: options and variables in; quoted commands, calls of gcloud, and what they answered, out.
# Sourced, never run. Codes of exit: 0 done, 1 or what the run ended with, 75 try again later.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
SCRIPT=$(basename "$0")
FAILED_ON_HOST=3 # host.sh failed and said why: asking again would not help
NOT_SET_UP=127   # there is no host.sh on the host
UNREACHABLE=4    # the connection broke, TPU_SSH_TRIES times
TRY_LATER=75

say() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# What a dry run did not do, it does not claim.
tell() { [[ -n $DRY_RUN ]] || say "$@"; }

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "needs bash 4.4 or newer, this is $BASH_VERSION"

# --- options and variables ---

DRY_RUN='' VARIABLES='' GIVEN=' ' REST=() ON_TO_OTHERS=()

# options "--its --own" "$@": fills DRY_RUN, VARIABLES, GIVEN and REST (what is behind --), then reads the variables.
options() {
  local own=" $1 "
  shift
  while (($#)); do
    case $1 in
      -h | --help)
        sed -En '2,/^[^#]/s/^#( |$)//p' "$HERE/$SCRIPT"
        exit 0
        ;;
      --dry-run) DRY_RUN=yes ;;
      --variables)
        (($# > 1)) || die "--variables needs a file"
        VARIABLES=$2
        shift
        ;;
      --variables=*) VARIABLES=${1#*=} ;;
      --)
        shift
        REST=("$@")
        break
        ;;
      *)
        [[ $own == *" $1 "* ]] || die "do not know what to do with $1; see --help"
        GIVEN+="$1 "
        ;;
    esac
    shift
  done
  [[ -z $DRY_RUN ]] || ON_TO_OTHERS+=(--dry-run)
  [[ -z $VARIABLES ]] || ON_TO_OTHERS+=(--variables "$VARIABLES")
  read_variables
}

given() { [[ $GIVEN == *" $1 "* ]]; }

read_variables() {
  local name known before
  known=$(sed -n 's/^: "${\(TPU_[A-Z_]*\):=.*/\1/p' "$HERE/variables.sh")
  before=$(compgen -v TPU_ || true)
  if [[ -n $VARIABLES ]]; then
    # A pipe, as <(...) is, would be empty for the scripts that launch.sh runs: they would mean another VM.
    [[ -r $VARIABLES && -f $VARIABLES ]] || die "--variables $VARIABLES: no such file, or none that can be read twice"
    [[ $VARIABLES == */* ]] || VARIABLES=./$VARIABLES # source looks along PATH first
    # shellcheck source=/dev/null
    source "$VARIABLES"
    for name in $(compgen -v TPU_); do
      grep -qx "$name" <<<"$known"$'\n'"$before" || die "$VARIABLES sets $name, which does not exist; see tpu_scripts/variables.sh"
    done
  fi
  # shellcheck source-path=SCRIPTDIR source=variables.sh
  source "$HERE/variables.sh"

  for name in TPU_SPOT TPU_NUMA; do
    [[ ${!name} =~ ^(yes|no)$ ]] || die "$name=${!name}: yes or no"
  done
  for name in $known; do
    case $name in
      *_TRIES | *_CHECKS | *_RESTARTS | *_CRASHES | *_LIMIT) [[ ${!name} =~ ^[0-9]+$ ]] || die "$name=${!name}: a whole number" ;;
      *_PAUSE) [[ ${!name} =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "$name=${!name}: a number of seconds" ;;
    esac
  done
  [[ $TPU_NAME =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] || die "TPU_NAME=$TPU_NAME: small letters, digits and -, a letter first"
  [[ $TPU_MOUNT == /* && $TPU_MOUNT != *[[:space:]]* ]] || die "TPU_MOUNT=$TPU_MOUNT: a path from / on, without spaces"
  [[ $TPU_BUCKETS != *[:/,]* ]] || die "TPU_BUCKETS=$TPU_BUCKETS: names of buckets only, without gs:// and folders, spaces between"
  [[ $TPU_ZONES != *,* ]] || die "TPU_ZONES=$TPU_ZONES: spaces between zones, no commas"
  read -ra ZONES <<<"$TPU_ZONES"
  ((${#ZONES[@]})) || die "TPU_ZONES is empty: name a zone, such as us-central1-b"
  read -ra SSH_FLAGS <<<"$TPU_SSH_FLAGS"
  [[ $TPU_LOGS == /* ]] || TPU_LOGS=$ROOT/$TPU_LOGS

  [[ $TPU_TYPE =~ ^[a-z0-9]+-[0-9]+$ ]] || die "TPU_TYPE=$TPU_TYPE is no type of TPU: such as v2-8 or v5e-8"
  TPU_TYPE=${TPU_TYPE/#v5e-/v5litepod-} # what gcloud calls it
  if [[ -z $TPU_RUNTIME ]]; then
    case $TPU_TYPE in
      v[234]-*) TPU_RUNTIME=tpu-ubuntu2204-base ;;
      v5litepod-*) TPU_RUNTIME=v2-alpha-tpuv5-lite ;;
      v5p-*) TPU_RUNTIME=v2-alpha-tpuv5 ;;
      v6e-*) TPU_RUNTIME=v2-alpha-tpuv6e ;;
      *) die "TPU_TYPE=$TPU_TYPE: known are v2, v3, v4, v5e, v5p and v6e; for another name its image in TPU_RUNTIME" ;;
    esac
  fi
}

# --- commands ---

# Words as bash reads them back, here and on the hosts.
quoted() {
  local word line=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

note() { [[ -z $DRY_RUN ]] || printf '# %s\n' "$*" >&4; }

# Runs a command; or prints it, in a dry run, on the terminal even when its answer is being read.
exec 4>&1
run() {
  if [[ -n $DRY_RUN ]]; then
    quoted "$@" >&4
  else
    "$@" 4>&-
  fi
}

pause() { [[ -n $DRY_RUN || $1 == 0 ]] || sleep "$1"; }

ERRORS=$(mktemp) # what gcloud said last on stderr
trap 'rm -f "$ERRORS"' EXIT

# tpu VERB NAME WORDS...: gcloud in ZONE.
tpu() {
  run gcloud compute tpus tpu-vm "$@" "--zone=$ZONE" ${TPU_PROJECT:+"--project=$TPU_PROJECT"} --quiet
}

logged_in() {
  [[ -n $DRY_RUN ]] || command -v gcloud >/dev/null || die "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"
  local account
  account=$(run gcloud auth list --filter=status:ACTIVE '--format=value(account)' 2>"$ERRORS") || true
  [[ -n $DRY_RUN || -n $account ]] || die "gcloud is not logged in: run gcloud auth login"
}

# What a failed call means: the first row whose pattern is in gcloud's words. KIND says what helps: `stop` nothing that we
# can do, `zone` another zone, `retry` time, `absent` and `exists` are answers; ADVICE says it to the user.
read_error() {
  local kind pattern advice words
  words=$(tr '[:upper:]' '[:lower:]' <"$ERRORS")
  while IFS='~' read -r kind pattern advice; do
    if [[ $words =~ $pattern ]]; then
      KIND=$kind ADVICE=${advice//ZONE/$ZONE}
      break
    fi
  done <<END
stop~service_disabled|api has not been used|api .*not enabled~the project's TPU service is off: run gcloud services enable tpu.googleapis.com
stop~unauthenticated|reauthentica|auth login|do not currently have an active account~gcloud's login is over: run gcloud auth login
stop~property \[project\]|project .*(not found|does not exist)~there is no such project: set TPU_PROJECT, or run gcloud config set project NAME
stop~billing.*(disabled|not enabled|closed)|(enable|requires) billing~billing is not enabled for the project
stop~permission_denied|does not have permission|permission .*denied|forbidden~your account may not do this in the project and ZONE: it needs the role TPU Admin (roles/tpu.admin), or the zone does not exist
exists~already_exists|already exists~$TPU_NAME exists in ZONE
zone~limit: 0([^.0-9]|\$)~the project has no quota for $TPU_TYPE in ZONE: ask for it, or try another zone
zone~accelerator.* not found|accelerator.*(unknown|invalid|not (offered|available|supported))~$TPU_TYPE is not offered in ZONE: see gcloud compute tpus accelerator-types list --zone=ZONE
zone~reserved capacity|reservation.* not found~there is no reservation for $TPU_TYPE in ZONE
stop~(runtime|software|tensorflow).*version.*(not found|invalid|unknown|unsupported)~there is no image $TPU_RUNTIME in ZONE: see gcloud compute tpus versions list --zone=ZONE
retry~no more capacity|insufficient.*capacity|stockout|resource_pool_exhausted~there is no $TPU_TYPE free in ZONE
retry~quota|too many requests|requests per minute~the quota for $TPU_TYPE in ZONE is used up
retry~resource_exhausted|code[": ]+8([^0-9]|\$)~there is no $TPU_TYPE free in ZONE
absent~not_found|was not found|does not exist~there is no $TPU_NAME in ZONE
retry~unavailable|internal error|internal:|aborted|deadline_exceeded|timed? ?out|connection|unreachable|unable to (resolve|find the server)~Google Cloud did not answer
stop~~gcloud failed
END
}

die_of_gcloud() {
  sed 's/^/  /' "$ERRORS" >&2
  die "$ADVICE"
}

# --- the VM ---

# find_vm ZONE...: looks for TPU_NAME there. 0 and ZONE, STATE, TYPE, HOSTS; 1 if there is none; 2 if
# nobody could say (KIND, ADVICE). A dry run asks nobody and takes the VM to be as the variables describe it; sizes up to 8
# have one host in every generation.
find_vm() {
  local answer
  for ZONE; do
    if answer=$(tpu describe "$TPU_NAME" '--format=csv[no-heading](state,acceleratorType,networkEndpoints.len())' 2>"$ERRORS"); then
      [[ -z $DRY_RUN ]] || answer=READY,$TPU_TYPE,$((${TPU_TYPE##*-} > 8 ? 2 : 1))
      IFS=, read -r STATE TYPE HOSTS <<<"$answer"
      TYPE=${TYPE##*/}
      return 0
    fi
    read_error
    [[ $KIND == absent ]] || return 2
  done
  return 1
}

# The same, but asks again while Google Cloud does not answer, and never returns 2.
find_vm_patiently() {
  local try code
  for ((try = 1; ; try++)); do
    code=0
    find_vm "$@" || code=$?
    ((code == 2)) || return "$code"
    if [[ $KIND != retry ]] || ((try >= TPU_SSH_TRIES)); then die_of_gcloud; fi
    pause "$TPU_SSH_PAUSE"
  done
}

find_vm_or_die() { find_vm_patiently "${ZONES[@]}" || die "there is no VM $TPU_NAME in $TPU_ZONES: run create.sh"; }

# The states that a VM does not come back from: it was taken away, or has ended its life.
was_taken() { [[ $STATE == PREEMPTED || $STATE == TERMINATED ]]; }

ready_vm_or_die() {
  find_vm_or_die
  ! was_taken || die "$TPU_NAME was pre-empted ($STATE): run delete.sh, then create.sh and setup.sh"
  [[ $STATE == READY ]] || die "$TPU_NAME is $STATE, not READY: see status.sh"
}

# --- its hosts ---

# on_hosts WORKER [NAME=value...] VERB WORDS...: `host.sh VERB WORDS` on a host, or on `all`, with those variables set.
on_hosts() {
  local worker=$1 try code settings=()
  shift
  while [[ $1 == [A-Z]*=* ]]; do
    settings+=("${1%%=*}=$(quoted "${1#*=}")")
    shift
  done
  local command="${settings[*]-}"
  command+="${command:+ }bash mmdiff-host.sh $(quoted "$@")"
  for ((try = 1; ; try++)); do
    code=0
    tpu ssh "$TPU_NAME" "--worker=$worker" "--command=$command" "${SSH_FLAGS[@]}" || code=$?
    [[ $code == 0 || $code == "$FAILED_ON_HOST" || $code == "$NOT_SET_UP" ]] && return "$code"
    ((try < TPU_SSH_TRIES)) || return "$UNREACHABLE"
    say "the connection to $TPU_NAME broke (code $code): try $((try + 1)) of $TPU_SSH_TRIES in $TPU_SSH_PAUSE s"
    pause "$TPU_SSH_PAUSE"
  done
}

die_of_hosts() {
  case $1 in
    "$FAILED_ON_HOST") die "failed on a host; its line stands above" ;;
    "$NOT_SET_UP") die "$TPU_NAME is not set up: run setup.sh" ;;
    *)
      say "cannot reach $TPU_NAME by ssh: see status.sh. With several hosts, is the key in ssh-agent (ssh-add ~/.ssh/google_compute_engine)?"
      exit "$TRY_LATER"
      ;;
  esac
}

# One look at the run, in RUNS a line a host: `NAME alive`, `NAME ended CODE`, `NAME stopped CODE`, `NAME lost` or
# `NAME idle`. 1 if not every host answered.
look_at_hosts() {
  local answer
  answer=$(tpu ssh "$TPU_NAME" --worker=all "--command=bash mmdiff-host.sh state" "${SSH_FLAGS[@]}" 2>"$ERRORS") || true
  RUNS=$(sed -n 's/^mmdiff-host //p' <<<"$answer" | sort)
  [[ -n $DRY_RUN ]] || (($(grep -c . <<<"$RUNS") == HOSTS))
}
