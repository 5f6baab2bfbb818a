#!/usr/bin/env bash
# Checks a recipe and starts verl: [vlm=...] [task=...] [method=...] [variant=...] [OVERRIDES...] [--OPTION]
#
# --show       prints the whole configuration, where each value comes from, and what the run takes: steps, memory of a
#              GPU, disk, hours. | grep -v '# verl:' leaves verl's own defaults out
# --check      checks this machine for the run: versions, GPUs, disk at CKPT_DIR, model, data
# --dry-run    checks model and data, and prints the command
# --toy        runs two steps on this machine's CPU with a small untrained model
#
# From the environment: NNODES, N_GPUS_PER_NODE, MODEL_PATH, DATA_DIR, CKPT_DIR (each only where it differs from the
# recipe's own value) and PYTHON.
set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

toy="" dry="" show="" check="" given=()
for each in "$@"; do
    case "$each" in
        --toy) toy=yes ;;
        --dry-run) dry=yes ;;
        --show) show=yes ;;
        --check) check=yes ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
        --*) echo "error: $each is no option: use --show, --check, --dry-run, --toy or --help" >&2; exit 2 ;;
        *) given+=("$each") ;;
    esac
done
"$python" -c "import divek_verl, hydra" > /dev/null 2>&1 ||
    { echo "error: $python has no divek_verl: set PYTHON to the Python in which you installed it" >&2; exit 2; }
if [[ -n "$toy" ]]; then
    exec "$python" "$recipes/toy.py" ${given[@]+"${given[@]}"}
fi
if [[ -n "$show" ]]; then
    "$python" "$recipes/recipe.py" show ${given[@]+"${given[@]}"}
    # The whole output is YAML.
    [[ -z "$check" ]] || "$python" "$recipes/recipe.py" check ${given[@]+"${given[@]}"} | sed 's/^/# /'
    exit
fi
if [[ -n "$check" ]]; then
    exec "$python" "$recipes/recipe.py" check ${given[@]+"${given[@]}"}
fi

set -x
# What the environment and the prepared data set, one override a line. A failed check ends the script here.
found=$("$python" "$recipes/recipe.py" launch ${given[@]+"${given[@]}"})
mapfile -t settings <<< "$found"
command=("$python" -m verl.trainer.main_ppo --config-dir "$recipes" --config-name recipe
    "${settings[@]}" ${given[@]+"${given[@]}"})
[[ -z "$dry" ]] || { printf '%q ' "${command[@]}"; exit; }
exec "${command[@]}"
