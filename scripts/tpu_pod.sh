#!/usr/bin/env bash
# Both stages on a Cloud TPU slice: create it, copy this project, install, train on all workers, follow logs, clean up.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/tpu_pod.sh [--dry-run] COMMAND [ARGUMENTS]

  create                          a slice; with SPOT=1 one that can be taken away at any moment
  copy                            this project (its committed files) to all workers
  install                         Python packages, on all workers
  train STAGE --config=... [...]  start train_vqgan.py (STAGE vqgan) or train_transformer.py (STAGE transformer) on all
                                  workers, in the background; all further arguments go to the program
  logs [STAGE] [WORKER]           follow the log of one worker (default: the newest training, worker 0)
  status                          the slice, and the trainings that run on its workers
  stop                            SIGTERM to the trainings: they save a checkpoint and end
  clean                           delete the slice (buckets stay)

settings, by environment variables:
  PROJECT   Google Cloud project            (required)
  ZONE      zone of the slice               (required)
  NAME      name of the slice               (default taming)
  TYPE      accelerator type                (default v5litepod-16; v4-32, v5p-64, ...)
  VERSION   TPU software version            (default by TYPE: v4 tpu-ubuntu2204-base, v5e v2-alpha-tpuv5-lite,
                                            v5p v2-alpha-tpuv5)
  SPOT      1: preemptible                  (default 0)
  WORKDIR   gs:// folder of the trainings   (train adds --workdir=WORKDIR/STAGE where the arguments have none)
  PORT      of the first worker, on which the others find it (default 8476)

--dry-run prints the commands and runs nothing.
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

DRY_RUN=0
if [[ ${1-} == --dry-run ]]; then
    DRY_RUN=1
    shift
fi
COMMAND=${1-}
if [[ -z $COMMAND || $COMMAND == help || $COMMAND == --help ]]; then
    usage
    exit 0
fi
shift

NAME=${NAME:-taming}
TYPE=${TYPE:-v5litepod-16}
SPOT=${SPOT:-0}
WORKDIR=${WORKDIR-}
PORT=${PORT:-8476}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
FOLDER=taming_jax_project # in the home folder of each worker

# Prints a command so that it can be pasted into a shell, or runs it.
run() {
    if ((DRY_RUN)); then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

tpu() { # VERB [ARGUMENTS]: on the slice
    local verb=$1
    shift
    run gcloud compute tpus tpu-vm "$verb" "$@" "--project=$PROJECT" "--zone=$ZONE"
}

on() { # WORKER COMMAND: WORKER is a number or all
    tpu ssh "$NAME" "--worker=$1" "--command=$2"
}

needs_slice() {
    [[ -n ${PROJECT-} ]] || fail "PROJECT is not set: the Google Cloud project"
    [[ -n ${ZONE-} ]] || fail "ZONE is not set: the zone of the slice, such as us-central2-b"
}

runtime() {
    case $TYPE in
        v4-*) echo tpu-ubuntu2204-base ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        *) fail "TYPE=$TYPE has no default software version here; set VERSION (gcloud compute tpus tpu-vm versions list)" ;;
    esac
}

stage_program() {
    case $1 in
        vqgan | transformer) echo "train_$1.py" ;;
        *) fail "unknown stage '$1'; known: vqgan, transformer" ;;
    esac
}

create() {
    local version
    version=${VERSION:-$(runtime)}
    local options=("--accelerator-type=$TYPE" "--version=$version" "--scopes=https://www.googleapis.com/auth/cloud-platform")
    case $SPOT in
        0) ;;
        1) options+=(--spot) ;;
        *) fail "SPOT=$SPOT, but it must be 0 or 1" ;;
    esac
    tpu create "$NAME" "${options[@]}"
}

copy() {
    local archive
    if ((DRY_RUN)); then
        archive=PROJECT.tar.gz
    else
        archive=$(mktemp --suffix=.tar.gz)
        trap 'rm -f "$archive"' RETURN
    fi
    run git -C "$ROOT" archive --format=tar.gz "--output=$archive" HEAD
    tpu scp "$archive" "$NAME:$FOLDER.tar.gz" --worker=all
    on all "mkdir -p $FOLDER && tar -xzf $FOLDER.tar.gz -C $FOLDER"
    if [[ -f $ROOT/weights/lpips_vgg16.npz ]]; then # not committed, and every host reads its own
        on all "mkdir -p $FOLDER/weights"
        tpu scp "$ROOT/weights/lpips_vgg16.npz" "$NAME:$FOLDER/weights/" --worker=all
    fi
}

install() {
    # The system's Python may be older than 3.11; uv brings its own.
    on all "python3 -m pip install --quiet --user uv && cd $FOLDER && \
python3 -m uv venv --quiet --allow-existing --python 3.11 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[data,tpu]'"
}

train() {
    (($# >= 1)) || fail "train needs a stage, vqgan or transformer, and --config=..."
    local stage=$1 program argument has_config=0 has_workdir=0
    program=$(stage_program "$stage")
    shift
    for argument in "$@"; do
        case $argument in
            --config=*) has_config=1 ;;
            --workdir=*) has_workdir=1 ;;
            --*=*) ;;
            *) fail "'$argument' is no --name=value: give arguments of the program in that form" ;;
        esac
    done
    ((has_config)) || fail "train $stage needs --config=configs/NAME.py"
    local arguments=("$@")
    if ((!has_workdir)); then
        [[ $WORKDIR == gs://* ]] || fail "set WORKDIR=gs://BUCKET/FOLDER, or give --workdir=gs://...: all workers must see it"
        arguments+=("--workdir=${WORKDIR%/}/$stage")
    fi
    local quoted
    quoted=$(printf '%q ' "${arguments[@]}")
    # Where the workers are is known to each of them from its metadata: NAME:ID:ADDRESS or ADDRESS, with commas between.
    # The single quotes are meant: these variables are the worker's.
    # shellcheck disable=SC2016
    local start='attribute() { curl -sf -H "Metadata-Flavor: Google" '
    start+='"http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"; }; '
    # shellcheck disable=SC2016
    start+='workers=$(attribute worker-network-endpoints) && number=$(attribute agent-worker-number) || exit 1; '
    # shellcheck disable=SC2016
    start+='IFS=, read -ra workers <<< "$workers"; if [ "${#workers[@]}" -gt 1 ]; then '
    # shellcheck disable=SC2016
    start+='export JAX_COORDINATOR_ADDRESS="${workers[0]##*:}:'"$PORT"'" JAX_NUM_PROCESSES="${#workers[@]}" '
    # shellcheck disable=SC2016
    start+='JAX_PROCESS_ID="$number"; fi; '
    start+="cd $FOLDER && mkdir -p logs && "
    start+="setsid nohup .venv/bin/python $program $quoted > logs/$stage.log 2>&1 < /dev/null & "
    start+="sleep 1; ln -sf $stage.log $FOLDER/logs/newest.log"
    on all "$start"
}

logs() {
    local stage=${1:-newest} worker=${2:-0}
    [[ $stage == newest ]] || stage_program "$stage" > /dev/null
    [[ $worker =~ ^[0-9]+$ ]] || fail "'$worker' is no worker's number"
    on "$worker" "tail -n 100 -F $FOLDER/logs/$stage.log"
}

status() {
    tpu describe "$NAME" "--format=value(state,health)"
    on all "pgrep -af 'python train_(vqgan|transformer).py' || echo no training"
}

stop() {
    on all "pkill -TERM -f '^.venv/bin/python train_(vqgan|transformer).py' || echo no training"
}

clean() {
    tpu delete "$NAME" --quiet
}

case $COMMAND in
    create | copy | install | train | logs | status | stop | clean)
        needs_slice
        "$COMMAND" "$@"
        ;;
    *)
        usage >&2
        fail "unknown command '$COMMAND'"
        ;;
esac
