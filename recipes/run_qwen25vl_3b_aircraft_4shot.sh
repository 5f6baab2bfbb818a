#!/usr/bin/env bash
# Qwen2.5-VL-3B. FGVC Aircraft, 4 images of each of all 100 variants.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_3b_aircraft_4shot "$@"
