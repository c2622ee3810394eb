#!/bin/bash
# Starts a real vLLM on CPU, in the foreground, on loopback; ready when GET /health answers 200 (40 to 90 s).
#   e2e/start-vllm.sh VENV MODEL_DIR PORT [flags of vLLM]
# The served model's name is the directory's. float32, so that greedy answers can be compared token for token; blocks of 32 tokens, since every
# scoring call recomputes up to one block; scale-out for /inference/v1/generate; prompt token details for cached_tokens, without which score mode is unsafe.
# A later flag wins: `start-vllm.sh … --dtype bfloat16` overrides.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 VENV MODEL_DIR PORT [flags]" >&2; exit 2; }
venv=$1 model=${2%/} port=$3
shift 3
[ -x "$venv/bin/python" ] || { echo "$0: no virtual environment at $venv (run install-vllm.sh)" >&2; exit 1; }
[ -f "$model/config.json" ] || { echo "$0: no model in $model" >&2; exit 1; }
# The model runs in the engine's own process. Otherwise each engine has a worker process that polls its queue without pause for a second after every step,
# and all of them are bound to the first core: with two engines on two cores a one-token call took 300 to 600 ms instead of 15, and starting takes longer.
export VLLM_ENABLE_V1_MULTIPROCESSING=0 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1} HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
# the `vllm` command fails here: it looks its version up under a package name that the CPU build does not have
exec "$venv/bin/python" -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name "$(basename "$model")" --host 127.0.0.1 --port "$port" \
  --max-model-len 2048 --enforce-eager --distributed-executor-backend uni --dtype float32 --block-size 32 --max-num-seqs 64 --enable-scale-out --enable-prompt-tokens-details "$@"
