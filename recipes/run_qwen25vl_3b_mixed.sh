#!/usr/bin/env bash
# Qwen2.5-VL-3B. Mixed domains: one model for all five sets, base-to-novel. Each row keeps its own class list, noun and prompt. The
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_3b_mixed "$@"
