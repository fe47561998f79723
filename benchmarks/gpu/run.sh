#!/bin/bash
# What batches on a GPU do on this machine, in less than eight minutes: benchmarks/gpu/run.sh [--fake]
#
# Each part has a deadline of its own. The report is in $OUT (build/gpu), report.txt. PYTHON is the Python that has numpy
# and PyAV, and Cython where the package is not compiled yet. --fake goes through the motions on the CPU; its figures
# mean nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
OUT=${OUT:-build/gpu}
mkdir -p "$OUT" || exit 1
REPORT=$OUT/report.txt
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}
export VALKKA_RUNTIME_DIR
VALKKA_RUNTIME_DIR=$(mktemp -d) || exit 1
trap 'rm -rf "$VALKKA_RUNTIME_DIR"' EXIT
failed=0

part() { # SECONDS TITLE COMMAND...
    local seconds=$1 title=$2 status
    shift 2
    echo "## $title" | tee -a "$REPORT"
    timeout -k 5 "$seconds" "$@" 2>&1 | tee -a "$REPORT"
    status=${PIPESTATUS[0]}
    [ "$status" = 124 ] && echo "not done in $seconds s" | tee -a "$REPORT"
    [ "$status" = 0 ] || { echo "FAILED ($status)" | tee -a "$REPORT"; failed=1; }
}

: > "$REPORT"
command -v nvidia-smi > /dev/null &&
    part 10 "GPU" nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.current,pcie.link.width.current --format=csv
"$PYTHON" -c 'import valkka_async.ring._shm, valkka_async.ring._rows' 2> /dev/null ||
    part 120 "Compiling" "$PYTHON" setup.py -q build_ext --inplace
part 100 "Bytes: the same as on the CPU" "$PYTHON" benchmarks/gpu/check.py "$@"
part 80 "GB/s: batches beside a memcpy from pinned memory" "$PYTHON" benchmarks/gpu/bandwidth.py "$@"
part 140 "Frames per second: decoded, and in a batch on the GPU" "$PYTHON" benchmarks/gpu/decoders.py "$@"
echo "The report is in $REPORT"
exit $failed
