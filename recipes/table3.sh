#!/usr/bin/env bash
# Four images of each class of the five sets.
# table3.sh --dry-run shows the plan and its cost; HYDRA OVERRIDES after it change every recipe.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/plan.py" table3 "$@"
