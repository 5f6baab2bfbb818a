"""benchmarks/threads.py takes the demo's own optimiser steps."""

import subprocess
import sys
from types import ModuleType


def test_a_burst_is_as_many_steps_as_are_asked_for(benchmark: ModuleType) -> None:
    command = [sys.executable, benchmark.__file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert benchmark.burst(server, 1) > 0
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(timeout=60) == 0
