#!/usr/bin/env bash
# The model as it comes, at both steps, on base and new classes of one set: MODEL_PATH, DATA_DIR and SET (default cub).
set -euo pipefail
MODEL_PATH=${MODEL_PATH:-models/Qwen2.5-VL-7B-Instruct}
DATA_DIR=${DATA_DIR:-data}
SET=${SET:-cub}

need() { [[ -f "$1" ]] || { echo "missing: $1"$'\n'"  make it with:  $2" >&2; exit 2; }; }
need "$MODEL_PATH/config.json" "hf download Qwen/${MODEL_PATH##*/} --local-dir $MODEL_PATH"
need "$DATA_DIR/$SET/val_base.parquet" "divek prepare $SET --data-root /path/to/$SET --out $DATA_DIR/$SET"

set -x
exec divek eval --model "$MODEL_PATH" --mode both \
    --data "$DATA_DIR/$SET/val_base.parquet" --data "$DATA_DIR/$SET/val_new.parquet" \
    --data-parallel "${N_GPUS_PER_NODE:-8}" --out "results/base_$SET" "$@"
