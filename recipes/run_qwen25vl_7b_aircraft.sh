#!/usr/bin/env bash
# Qwen2.5-VL-7B. FGVC Aircraft, base-to-novel: 50 variants to train on, 50 held out.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_aircraft "$@"
