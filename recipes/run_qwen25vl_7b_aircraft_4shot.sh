#!/usr/bin/env bash
# Qwen2.5-VL-7B. FGVC Aircraft, 4 images of each of all 100 variants.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_aircraft_4shot "$@"
