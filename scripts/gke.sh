#!/usr/bin/env bash
# Prints a JobSet for Google Kubernetes Engine: one stage on TPU slices, each host a pod.
#   IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/taming TPU_TYPE=v5litepod-16 scripts/gke.sh \
#       vqgan --config=configs/imagenet_vqgan.py:16384 --workdir=gs://... --config.data.path=gs://... | kubectl apply -f -
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/gke.sh vqgan|transformer|encode --config=... [...] | kubectl apply -f -

Prints the manifest, and runs nothing. The cluster needs a node pool of the slices and the JobSet controller; the image
holds this project with '.[data,tpu]' installed, in the folder where it starts.

settings, by environment variables:
  IMAGE     of the container         (required)
  TPU_TYPE  of a slice               (default v5litepod-16; v4-32, v5p-64, v6e-16, ...)
  TOPOLOGY  chips along each axis    (default by type and number, for slices of 8 to 256 chips)
  SLICES    how many                 (default 1; more need --config.mesh.dcn=-1 or a multiple of them in mesh.data)
  NAME      of the JobSet            (default taming-STAGE)
  ACCOUNT   Kubernetes service account that may read and write the bucket (default: the namespace's)
  RESTARTS  after failures and preemptions; the training goes on from its checkpoint (default 100)
  WINDOWED_EINSUM  see scripts/tpu_worker.sh (default 0)
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

number() { # VARIABLE: a whole number above 0
    [[ ${!1} =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1=${!1}: expected a number of at least 1"
}

quoted() { # TEXT, as JSON writes it, and so YAML
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//\$(/\$\$(} # Kubernetes puts variables in there
    [[ $text != *[[:cntrl:]]* ]] || fail "an argument with a tab or a line break: $1"
    printf '"%s"' "$text"
}

if [[ ${1-} == "" || $1 == help || $1 == --help ]]; then
    usage
    exit 0
fi
stage=$1
shift
case $stage in
    vqgan | transformer) program=("train_$stage.py") ;;
    encode) program=(-m taming_jax.encode_dataset) ;;
    *) fail "unknown stage '$stage'; known: vqgan, transformer, encode" ;;
esac
[[ " $*" == *" --config="* ]] || fail "a stage needs --config=configs/NAME.py"

IMAGE=${IMAGE-} TPU_TYPE=${TPU_TYPE:-v5litepod-16} SLICES=${SLICES:-1} RESTARTS=${RESTARTS:-100}
NAME=${NAME:-taming-$stage}
[[ -n $IMAGE ]] || fail "IMAGE is not set"
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] || fail "NAME=$NAME: expected small letters, digits and hyphens"
number SLICES
number RESTARTS
kind=${TPU_TYPE%-*} count=${TPU_TYPE##*-}
number count
case $kind in
    v4) accelerator=tpu-v4-podslice axes=3 cores=2 ;; # the number counts cores
    v5litepod) accelerator=tpu-v5-lite-podslice axes=2 cores=1 ;;
    v5p) accelerator=tpu-v5p-slice axes=3 cores=2 ;;
    v6e) accelerator=tpu-v6e-slice axes=2 cores=1 ;;
    *) fail "TPU_TYPE=$TPU_TYPE is none of v4, v5litepod, v5p, v6e with a number" ;;
esac
case ${TOPOLOGY-}$axes-$((count / cores)) in
    2-8) TOPOLOGY=2x4 ;; 2-16) TOPOLOGY=4x4 ;; 2-32) TOPOLOGY=4x8 ;;
    2-64) TOPOLOGY=8x8 ;; 2-128) TOPOLOGY=8x16 ;; 2-256) TOPOLOGY=16x16 ;;
    3-8) TOPOLOGY=2x2x2 ;; 3-16) TOPOLOGY=2x2x4 ;; 3-32) TOPOLOGY=2x4x4 ;;
    3-64) TOPOLOGY=4x4x4 ;; 3-128) TOPOLOGY=4x4x8 ;; 3-256) TOPOLOGY=4x8x8 ;;
esac
[[ ${TOPOLOGY-} =~ ^[0-9]+(x[0-9]+){1,2}$ ]] || fail "no topology is known here for TPU_TYPE=$TPU_TYPE; set TOPOLOGY"
((${TOPOLOGY//x/*} * cores == count)) || fail "TOPOLOGY=$TOPOLOGY has not the chips of TPU_TYPE=$TPU_TYPE"
hosts=$((count / cores / 4)) # of 4 chips each
((hosts >= 1 && hosts * 4 * cores == count)) || fail "TPU_TYPE=$TPU_TYPE is no number of hosts with 4 chips"

flags='--xla_tpu_run_space_to_batch=false --xla_tpu_run_space_to_batch_on_new_platforms=false'
[[ ${WINDOWED_EINSUM:-0} == 1 ]] || flags+=' --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000'

words=''
for word in python "${program[@]}" "$@"; do
    text=$(quoted "$word") # here, so that a failure within ends the script
    words+="                    - $text"$'\n'
done
image=$(quoted "$IMAGE")
account=''
if [[ -n ${ACCOUNT-} ]]; then
    account=$'\n'"              serviceAccountName: $(quoted "$ACCOUNT")"
fi

cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool # a slice is a node pool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS # of all pods together, as one whose neighbours are gone must end
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              terminationGracePeriodSeconds: 300 # for the checkpoint after SIGTERM$account
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
              containers:
                - name: train
                  image: $image
                  command:
${words%$'\n'}
                  env:
                    - name: LIBTPU_INIT_ARGS
                      value: "$flags"
                  ports:
                    - containerPort: 8471 # between the hosts
                    - containerPort: 8080 # between slices
                  resources:
                    limits:
                      google.com/tpu: 4
YAML
