#!/usr/bin/env bash
# Every measurement that wants an accelerator, one after another, into one file:
#
#     benchmarks/accelerator.sh results.txt [PHOTOS]
#
# Needs what this package needs and, for the peers, a PyTorch that sees the device; no TensorFlow, unless PHOTOS, a folder of
# images, is given for the input pipeline. About half an hour on one H200. A measurement that fails does not stop the
# others. BANDWIDTH (GB/s) and PEAK (TFLOPS in bfloat16) are the device's; the defaults are those of an H200.
set -uo pipefail

fail() {
    echo "error: $*; usage: benchmarks/accelerator.sh RESULTS [PHOTOS]" >&2
    exit 2
}

(($# == 1 || $# == 2)) || fail "expected one or two arguments, not $#"
photos=${2:+$(realpath "$2" 2> /dev/null)}
[[ -z ${2:-} || -d $photos ]] || fail "no such folder: '$2'"
{ out=$(realpath "$1") && : >> "$out"; } 2> /dev/null || fail "cannot write to '$1'"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

measure() {
    printf '\n$ python %s\n' "$*"
    python "$@" || printf 'failed with status %s\n' "$?"
}

{
    date -u
    python -c 'import jax, sys; print("python", sys.version.split()[0], "jax", jax.__version__, jax.devices())'
    measure benchmarks/decode.py --model 0.1B 0.3B 1.4B --batch 1 8 64 --dtype bfloat16 --compiled_peer \
        --bandwidth "${BANDWIDTH:-4800}"
    measure benchmarks/sliding_window.py --grid 32x32 52x80 64x128 --model 0.3B --dtype bfloat16 --compiled_peer
    for attention in xla cudnn; do
        measure benchmarks/train.py --stage transformer --model 0.3B 1.4B --batch 32 --dtype bfloat16 \
            --attention "$attention" --peak "${PEAK:-989}" --count
    done
    measure benchmarks/train.py --stage vqgan --model f16 --batch 12 --dtype bfloat16 --peak "${PEAK:-989}" --count
    if [[ -n $photos ]]; then
        measure benchmarks/train.py --input "$photos" --size 256 --batch 96
    fi
} 2>&1 | tee "$out"
