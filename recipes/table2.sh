#!/usr/bin/env bash
# Mixed domains: one model for all five sets.
# table2.sh --dry-run shows the plan and its cost; HYDRA OVERRIDES after it change every recipe.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/plan.py" table2 "$@"
