#!/usr/bin/env bash
# Both stages on a Cloud TPU slice: create it, copy this project, install, train on all workers, follow logs, clean up.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/tpu_pod.sh [--dry-run] COMMAND [ARGUMENTS]

  create                          a slice; with SPOT=1 one that can be taken away at any moment
  copy                            this project, as it is committed, to all workers
  install                         Python and packages, on all workers
  train STAGE --config=... [...]  start train_vqgan.py (STAGE vqgan) or train_transformer.py (STAGE transformer) on all
                                  workers, in the background; all further arguments go to the program. STAGE encode
                                  starts taming_jax.encode_dataset, which takes --out=gs://... instead of --workdir
  logs [STAGE] [WORKER]           follow the log of one worker (default: the training started last, worker 0)
  status                          the slice, and the trainings that run on its workers
  stop                            SIGTERM to the trainings: they save a checkpoint and end
  clean                           delete the slice (buckets stay)

settings, by environment variables:
  PROJECT      Google Cloud project           (required)
  ZONE         zone of the slice              (required)
  TPU_NAME     name of the slice              (default taming)
  TPU_TYPE     accelerator type               (default v5litepod-16; v4-32, v5p-64, v6e-16, ...)
  TPU_VERSION  software version               (default by type: v4 tpu-ubuntu2204-base, v5litepod v2-alpha-tpuv5-lite,
                                              v5p v2-alpha-tpuv5, v6e v2-alpha-tpuv6e)
  SPOT         1: preemptible                 (default 0)
  WORKDIR      gs:// folder of the trainings  (train adds --workdir=WORKDIR/STAGE where the arguments have none)
  WINDOWED_EINSUM  1: the compiler may cut products with split parameters into rings, see scripts/tpu_worker.sh (default 0)
  PORT         on which the first worker waits for the others (default 8476)

--dry-run prints the commands and runs nothing.
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

dry_run=0
if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
fi
command=${1-}
if [[ -z $command || $command == help || $command == --help ]]; then
    usage
    exit 0
fi
shift

TPU_NAME=${TPU_NAME:-taming}
TPU_TYPE=${TPU_TYPE:-v5litepod-16}
SPOT=${SPOT:-0}
WORKDIR=${WORKDIR-}
WINDOWED_EINSUM=${WINDOWED_EINSUM:-0}
PORT=${PORT:-8476}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=taming_jax_project # in the home folder on each worker
trainings='^.venv/bin/python (train_vqgan.py|train_transformer.py|-m taming_jax.encode_dataset) '

run() { # or print it, so that it can be pasted into a shell
    if ((dry_run)); then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

tpu() { # VERB [ARGUMENTS]: on the slice
    run gcloud compute tpus tpu-vm "$@" "--project=$PROJECT" "--zone=$ZONE"
}

on() { # WORKER COMMAND: WORKER is a number or all
    tpu ssh "$TPU_NAME" "--worker=$1" "--command=$2"
}

software() {
    case $TPU_TYPE in
        v4-*) echo tpu-ubuntu2204-base ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v6e-*) echo v2-alpha-tpuv6e ;;
        *) fail "no software version is known here for TPU_TYPE=$TPU_TYPE; set TPU_VERSION" ;;
    esac
}

check_stage() {
    [[ $1 == vqgan || $1 == transformer || $1 == encode ]] || fail "unknown stage '$1'; known: vqgan, transformer, encode"
}

create() {
    local version options
    version=${TPU_VERSION:-$(software)}
    options=("--accelerator-type=$TPU_TYPE" "--version=$version")
    options+=("--scopes=https://www.googleapis.com/auth/cloud-platform") # to read and write buckets
    case $SPOT in
        0) ;;
        1) options+=(--spot) ;;
        *) fail "SPOT=$SPOT, but it must be 0 or 1" ;;
    esac
    tpu create "$TPU_NAME" "${options[@]}"
}

copy() {
    packed=/tmp/taming_jax_project.tar.gz
    if ((!dry_run)); then
        temporary=$(mktemp -d)
        trap 'rm -rf "$temporary"' EXIT
        packed=$temporary/taming_jax_project.tar.gz
    fi
    run git -C "$root" archive --format=tar.gz "--output=$packed" HEAD
    tpu scp "$packed" "$TPU_NAME:$folder.tar.gz" --worker=all
    on all "mkdir -p $folder/weights && tar -xzf $folder.tar.gz -C $folder"
    local weights
    for weights in "$root"/weights/{lpips_vgg16,dinov2_vits14}.npz; do # not committed, and every host reads its own
        [[ ! -f $weights ]] || tpu scp "$weights" "$TPU_NAME:$folder/weights/" --worker=all
    done
}

install() { # the system's Python may be older than 3.11, so uv brings one
    on all "python3 -m pip install --quiet --user uv && cd $folder && \
python3 -m uv venv --quiet --allow-existing --python 3.11 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[data,tpu]'"
}

train() {
    (($#)) || fail "train needs a stage (vqgan, transformer, encode) and --config=..."
    local stage=$1 argument config='' place='' quoted
    check_stage "$stage"
    shift
    local arguments=("$@")
    for argument in "$@"; do
        case $argument in
            --config=*) config=$argument ;;
            --workdir=* | --out=*)
                place=$argument
                [[ ${place#*=} == gs://* ]] || fail "$place: give gs://BUCKET/FOLDER, which all workers see"
                ;;
            --*=*) ;;
            *) fail "'$argument': give the arguments of the program as --name=value" ;;
        esac
    done
    [[ -n $config ]] || fail "train $stage needs --config=configs/NAME.py"
    if [[ -z $place ]]; then
        [[ $stage != encode ]] || fail "train encode needs --out=gs://BUCKET/FOLDER"
        [[ $WORKDIR == gs://* ]] || fail "WORKDIR=$WORKDIR: set it to gs://BUCKET/FOLDER, which all workers see"
        arguments+=("--workdir=${WORKDIR%/}/$stage")
    fi
    quoted=$(printf '%q ' "$stage" "${arguments[@]}") # for the worker's shell
    on all "cd $folder && mkdir -p logs && ln -sf $stage.log logs/newest.log && \
if pgrep -f '$trainings'; then echo 'a training runs already: stop it first' >&2; exit 1; fi && \
{ PORT=$(printf %q "$PORT") WINDOWED_EINSUM=$(printf %q "$WINDOWED_EINSUM") setsid nohup scripts/tpu_worker.sh $quoted>> logs/$stage.log 2>&1 < /dev/null & }"
}

logs() {
    local log=${1:-newest} worker=${2:-0}
    [[ $log == newest ]] || check_stage "$log"
    [[ $worker =~ ^[0-9]+$ ]] || fail "'$worker' is no worker's number"
    on "$worker" "tail -n 100 -F $folder/logs/$log.log"
}

status() {
    tpu describe "$TPU_NAME" '--format=value(state)'
    on all "pgrep -af '$trainings' || echo no training"
}

stop() {
    on all "pkill -TERM -f '$trainings' || echo no training"
}

clean() {
    tpu delete "$TPU_NAME" --quiet
}

case $command in
    create | copy | install | train | logs | status | stop | clean)
        [[ -n ${PROJECT-} ]] || fail "PROJECT is not set: the Google Cloud project"
        [[ -n ${ZONE-} ]] || fail "ZONE is not set: the zone of the slice, such as us-west4-a"
        "$command" "$@"
        ;;
    *) fail "unknown command '$command'; known: create, copy, install, train, logs, status, stop, clean" ;;
esac
