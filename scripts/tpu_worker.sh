#!/usr/bin/env bash
# Start one stage on this worker of a Cloud TPU slice: scripts/tpu_worker.sh vqgan|transformer|encode --config=... [...]
# scripts/tpu_pod.sh runs it on all workers at once; each finds the others by the slice's metadata.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

attribute() {
    curl -sSf -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

stage=$1
shift
endpoints=$(attribute worker-network-endpoints) # of all workers in their order: ADDRESS or NAME:ID:ADDRESS
number=$(attribute agent-worker-number)
IFS=, read -ra workers <<< "$endpoints"
if ((${#workers[@]} > 1)); then
    export JAX_COORDINATOR_ADDRESS="${workers[0]##*:}:${PORT:-8476}"
    export JAX_NUM_PROCESSES="${#workers[@]}" JAX_PROCESS_ID="$number"
fi
program=("train_$stage.py")
[[ $stage != encode ]] || program=(-m taming_jax.encode_dataset)
exec .venv/bin/python "${program[@]}" "$@"
