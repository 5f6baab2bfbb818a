#!/usr/bin/env bash
# The model as it comes, at both steps, on base and new classes of one set: MODEL_PATH, DATA_DIR, SET (default cub), PYTHON.
set -euo pipefail
MODEL_PATH=${MODEL_PATH:-models/Qwen2.5-VL-7B-Instruct}
DATA_DIR=${DATA_DIR:-data}
SET=${SET:-cub}

need() { [[ -f "$1" ]] || { printf 'missing: %s\n  make it with: ' "$1"; printf ' %q' "${@:2}"; echo; exit 2; } >&2; }
need "$MODEL_PATH/config.json" hf download "Qwen/${MODEL_PATH##*/}" --local-dir "$MODEL_PATH"
for side in base new; do
    need "$DATA_DIR/$SET/val_$side.parquet" divek prepare "$SET" --data-root "/path/to/$SET" --out "$DATA_DIR/$SET"
done

set -x
exec "${PYTHON:-python3}" -m divek_verl.cli eval --model "$MODEL_PATH" --mode both \
    --data "$DATA_DIR/$SET/val_base.parquet" --data "$DATA_DIR/$SET/val_new.parquet" \
    --data-parallel "${N_GPUS_PER_NODE:-8}" --out "results/base_$SET" "$@"
