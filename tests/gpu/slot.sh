#!/bin/bash
# A short slot on a bare GPU machine without network: everything that is still to be shown there, in steps of a few minutes.
#
#   tests/gpu/slot.sh prepare CHECKPOINT SET   anywhere with PyTorch: models and range tables into .gpu/models
#   tests/gpu/slot.sh first                    GPUs found by their place on the PCI bus: mend this before anything else
#   tests/gpu/slot.sh build                    plans, and a timing cache for the next slot
#   tests/gpu/slot.sh decode                   how many streams one process carries (capture.streams_per_group)
#   tests/gpu/slot.sh rungs LIST [ARGUMENT…]   of make gpu-bench; results merge into $OUT/gpu-bench.json
#   tests/gpu/slot.sh tests                    tests/gpu
#   tests/gpu/slot.sh beside [LOOKS]           beside another step, in the background: every 6 s (30 times) the GPU, who
#                                              uses the CPU, and at which lock of the driver decoder processes wait
#
# PYTHON: what runs it (python3), with this repository's dependencies, PyCUDA and TensorRT. MODELS: that folder.
# OUT: where results go, which are worth fetching after each step. Plans fit one type of GPU and one TensorRT.
set -uo pipefail
cd "$(dirname "$0")/../.."
PY=${PYTHON:-python3} MODELS=${MODELS:-.gpu/models} OUT=${OUT:-.gpu/out}
CLIP=${CLIP:-} LABELS=${LABELS:-} PICTURES=${PICTURES:-}
mkdir -p "$OUT" "$MODELS"

model() { $PY -m facedetctl model "$@"; }

prepare() {
    local checkpoint=$1 set=$2
    set -e
    model export --random-weights 1 --size s --width 960 --height 544 --output "$MODELS/s.onnx"
    model export "$checkpoint" --output "$MODELS/n05.onnx"
    # Of random weights no layer is worth keeping: all in INT8 is what its speed is asked for
    model quantize "$MODELS/s.onnx" --calibration "$set" --keep-float none --width 960 --height 544 \
        --output "$MODELS/s-int8.onnx"
    model quantize "$MODELS/n05.onnx" --calibration "$set" --width 640 --height 640 --output "$MODELS/n05-int8.onnx"
    rm "$MODELS"/s-int8.onnx
    ls -l "$MODELS"
}

build() {
    local name precision size
    for name in n05:fp16:640x640 n05:int8:640x640 s:int8:960x544; do
        IFS=: read -r name precision size <<<"$name"
        local plan=$MODELS/$name-$precision.plan ranges=()
        [ "$precision" = int8 ] && ranges=(--ranges "$MODELS/$name-int8.ranges.json")
        [ -f "$plan" ] && continue
        echo "== $plan"
        model build "$MODELS/$name.onnx" --precision "$precision" "${ranges[@]}" --width "${size%x*}" \
            --height "${size#*x}" --timing-cache "$MODELS/timing.cache" --output "$plan"
    done
    cp "$MODELS"/*.plan* "$MODELS/timing.cache" "$OUT/"
}

decode() {
    local streams
    # One run each: what one of them breaks is not the next one's
    for streams in 70/1 70/2 160/3 160/4 160/5; do
        timeout 90 $PY -m tests.gpu.bench_decode --streams "$streams" --seconds 7 ${CLIP:+--clip "$CLIP"} \
            --json "$OUT/decode-${streams/\//-}.json"
    done
}

rungs() {
    local list=$1
    shift
    $PY -m tests.gpu.bench --plans "$MODELS" --rungs "$list" --results "$OUT/gpu-bench.json" \
        --plot "$OUT/gpu-ladder.svg" ${CLIP:+--clip "$CLIP"} ${LABELS:+--labels "$LABELS" --pictures "$PICTURES"} "$@"
}

tests() {
    # Two processes: FFmpeg wants a CUDA context made its own way
    FACEDETD_TEST_PLANS=$MODELS FACEDETD_TEST_EVAL=$PICTURES \
        $PY -m pytest -q -rs tests/gpu --ignore tests/gpu/test_nvdec.py | tee "$OUT/tests.txt"
    $PY -m pytest -q -rs tests/gpu/test_nvdec.py | tee "$OUT/tests-nvdec.txt"
}

beside() {
    local process
    for _ in $(seq 1 "${1:-30}"); do
        sleep 6
        echo "== $(date -u +%T) $(cat /proc/loadavg)"
        nvidia-smi --query-gpu=memory.used,utilization.gpu,utilization.decoder --format=csv,noheader
        top -b -n1 -w 160 | sed -n '3p;7,12p'
        for process in $(pgrep facedetd-decode | head -2); do # by root: which functions of the kernel its threads are in
            cat /proc/"$process"/task/*/stack | grep -oE 'rmapiLockAcquire|futex_do_wait|hrtimer_nanosleep' | sort | uniq -c
        done
    done
}

case ${1:-} in
    prepare) prepare "${2:?the checkpoint}" "${3:?the folder of calibration pictures}" ;;
    first) timeout 90 $PY -m pytest -q -rs tests/gpu/test_devices.py tests/gpu/test_nvml.py ;;
    rungs) rungs "${2:?which rungs}" "${@:3}" ;;
    beside) beside "${2:-}" ;;
    build | decode | tests) "$1" ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
