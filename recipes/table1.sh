#!/usr/bin/env bash
# Base-to-novel on the five sets: the model as it comes, ViRFT, DiVE-k as in the paper and with live questions.
# table1.sh --dry-run shows the plan and its cost; HYDRA OVERRIDES after it change every recipe.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/plan.py" table1 "$@"
