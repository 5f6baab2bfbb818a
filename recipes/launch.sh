#!/usr/bin/env bash
# Checks a recipe and starts verl: launch.sh [vlm=...] [task=...] [method=...] [variant=...] [--toy] [OVERRIDES...]
#
# From the environment: NNODES, N_GPUS_PER_NODE, MODEL_PATH, DATA_DIR, CKPT_DIR (each only where it differs from the
# recipe's own value) and PYTHON. --toy runs two steps on this machine's CPU with a small untrained model.
set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

toy=
given=()
for each in "$@"; do
    if [[ "$each" == --toy ]]; then toy=yes; else given+=("$each"); fi
done
if [[ -n "$toy" ]]; then
    exec "$python" "$recipes/toy.py" ${given[@]+"${given[@]}"}
fi

set -x
# What the environment and the prepared data set, one override a line. A failed check ends the script here.
found=$("$python" "$recipes/recipe.py" check ${given[@]+"${given[@]}"})
mapfile -t settings <<< "$found"
exec "$python" -m verl.trainer.main_ppo --config-dir "$recipes" --config-name recipe \
    "${settings[@]}" ${given[@]+"${given[@]}"}
