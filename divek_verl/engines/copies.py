"""How many copies of a model answer soonest on a CPU, where the user does not say."""

import os
from pathlib import Path

import psutil

from divek_verl.engines.options import EngineOptions

# A second copy takes seconds to start. Below as many images for each, that is more than it saves.
IMAGES_OF_A_COPY = 128
# Measured on two cores only; each copy is a process with imports and caches of its own.
MOST_COPIES = 4
GIB = 1024**3
# Of a copy besides its weights and key-value cache: torch and vLLM.
BYTES_OF_A_PROCESS = 2 * GIB
# On a CPU weights are float32, and those of a checkpoint nearly always bfloat16.
GROWTH_OF_WEIGHTS = 2


def copies_on_a_cpu(options: EngineOptions, images: int) -> int:
    """Copies of the model for so many images, as many as cores, images and free memory are there for.

    A second core gives one process of a small model nothing: what it could share is over before it is shared out.
    """
    wanted = min(os.cpu_count() or 1, MOST_COPIES, images // IMAGES_OF_A_COPY)
    if wanted < 2 or options.tensor_parallel > 1:
        return 1
    return max(1, min(wanted, psutil.virtual_memory().available // _bytes_of_a_copy(options.model)))


def _bytes_of_a_copy(model: str) -> int:
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    # Unset only for a caller that has not prepared the machine; vLLM then takes half of it.
    cache = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE", 0)) * GIB or psutil.virtual_memory().total // 2
    # The weights of a name on a model hub are not known before they are loaded.
    return int(GROWTH_OF_WEIGHTS * weights + cache + BYTES_OF_A_PROCESS) if weights else psutil.virtual_memory().total
