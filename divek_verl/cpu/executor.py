"""Which of vLLM's executors runs a model on the CPU."""

# vLLM's CPU platform turns the short name, "uni", into "mp" (vllm/platforms/cpu.py, for the threads' binding, which we
# do not use), where a process that only waits for the model keeps a core busy. The long name is taken as it is: a fifth
# more images a second on two cores. The waiting core is known upstream (vLLM #34670), the turned name is not (2026-11).
IN_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def executor(tensor_parallel: int) -> str:
    """The model in the process of its scheduler, unless several processes share it."""
    return "mp" if tensor_parallel > 1 else IN_PROCESS
