#!/usr/bin/env bash
# What all run_*.sh do: launch.sh RECIPE [--toy] [HYDRA OVERRIDES...]
#
# From the environment: NNODES, N_GPUS_PER_NODE, MODEL_PATH, DATA_DIR, CKPT_DIR, each only where it differs from the
# recipe's own value, and PYTHON. With --toy: two steps on this machine's CPU, with a small untrained model.
set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
recipe=$1
shift

if [[ "${1:-}" == --toy ]]; then
    shift
    exec "$python" "$recipes/toy.py" "$recipe" "$@"
fi

settings=()
[[ -z "${NNODES:-}" ]] || settings+=("trainer.nnodes=$NNODES")
[[ -z "${N_GPUS_PER_NODE:-}" ]] || settings+=("trainer.n_gpus_per_node=$N_GPUS_PER_NODE")
[[ -z "${MODEL_PATH:-}" ]] || settings+=("recipe.model_path=$MODEL_PATH")
[[ -z "${DATA_DIR:-}" ]] || settings+=("recipe.data_dir=$DATA_DIR")
[[ -z "${CKPT_DIR:-}" ]] || settings+=("recipe.ckpt_dir=$CKPT_DIR")
settings+=("$@")

set -x
"$python" "$recipes/check.py" "$recipe" ${settings[@]+"${settings[@]}"}
exec "$python" -m verl.trainer.main_ppo --config-dir "$recipes" --config-name "$recipe" \
    ${settings[@]+"${settings[@]}"}
