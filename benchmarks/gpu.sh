#!/usr/bin/env bash
# What only a GPU can tell, in at most eight minutes: tests, numbers, times and training steps, as tables under
# benchmarks/results/. It installs nothing, and a part that fails or takes too long costs no other part.
#
#     benchmarks/gpu.sh                                   # on a machine with a GPU
#     benchmarks/gpu.sh --device cpu --quick --output DIR # everywhere, in Triton's interpreter, to see that it works
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
python=$(command -v python || command -v python3)
failed=()

part() { # seconds, name, command
    local limit=$1 name=$2 start=$SECONDS
    shift 2
    echo "== $name"
    timeout --kill-after=5 "$limit" "$@" || failed+=("$name (exit status $?)")
    echo "== $name took $((SECONDS - start)) s"
}

quick=false
for word in "$@"; do [ "$word" = --quick ] && quick=true; done
if $quick; then
    export TRITON_INTERPRET=1
else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
fi

part 90 check "$python" -m benchmarks.gpu check "$@"
if ! $quick && "$python" -c "import pytest, xdist, hypothesis" 2>/dev/null; then
    # Each kernel size is compiled, so what draws hundreds at random is for a longer day. The variable is cuBLAS's: the
    # tests fill memory with NaN, which torch couples with determinism. Other versions of torch may warn.
    part 90 tests env CUBLAS_WORKSPACE_CONFIG=:4096:8 "$python" -m pytest -n 8 --dist load -p no:cacheprovider \
        -o filterwarnings=default --maxfail 30 tests/functional/test_conv.py tests/functional/test_short.py \
        -k "triton and not any_chunking and not all_gradients and not edges"
fi
part 130 ops "$python" -m benchmarks.gpu ops "$@"
part 45 short "$python" -m benchmarks.gpu short "$@"
part 60 layers "$python" -m benchmarks.gpu layers "$@"
part 60 models "$python" -m benchmarks.gpu models "$@"

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
