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

# Below 8 images on a chip, folding space into the batch makes convolutions several times slower.
flags='--xla_tpu_run_space_to_batch=false --xla_tpu_run_space_to_batch_on_new_platforms=false'
# Products with parameters that are split over chips would be cut into a ring of small ones; by the compiler's estimate
# that takes two to five times as long. WINDOWED_EINSUM=1 leaves the choice to the compiler.
[[ ${WINDOWED_EINSUM:-0} == 1 ]] || flags+=' --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000'
export LIBTPU_INIT_ARGS="$flags ${LIBTPU_INIT_ARGS-}" # of a flag that is given twice, the last counts

program=("train_$stage.py")
[[ $stage != encode ]] || program=(-m taming_jax.encode_dataset)
exec .venv/bin/python "${program[@]}" "$@"
