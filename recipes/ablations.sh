#!/usr/bin/env bash
# Options at random, and as many options as the votes ask for.
# ablations.sh --dry-run shows the plan and its cost; HYDRA OVERRIDES after it change every recipe.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/plan.py" ablations "$@"
