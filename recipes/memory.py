"""GPU memory of a recipe, as arithmetic: what each GPU holds while it generates and while it trains.

python recipes/memory.py qwen25vl_7b_cub [OVERRIDES...]

Not measured. It counts what is known from the configuration (weights, gradients, optimiser, logits, the engine's share)
and leaves out activations between checkpoints, fragmentation and communication buffers: keep a margin.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from composing import compose_recipe
from omegaconf import DictConfig, OmegaConf
from plan import PARAMETERS
from rich.console import Console
from rich.table import Table

from divek_verl.errors import SetupError

GPU = 80.0
VOCABULARY = 152064
# fp32: weights and gradients, and AdamW's two moments.
TRAINED_BYTES = 16
FROZEN_BYTES = 4
# Copies of the logits of a sequence that live at one time: themselves, their softmax and their gradient.
LOGITS_COPIES = 3
LORA_SHARE = 0.02


@dataclass(frozen=True)
class Memory:
    """Gigabytes on each GPU.

    Attributes:
        state: sharded weights, gradients and optimiser of the policy.
        reference: sharded weights of the reference policy; the policy itself without its adapter, for LoRA.
        layer: one layer's weights, gathered in bf16.
        logits: of one micro-batch, in fp32.
        engine: what the rollout engine takes while it generates, its weights and cache.
    """

    state: float
    reference: float
    layer: float
    logits: float
    engine: float

    @property
    def generating(self) -> float:
        return self.state + self.reference + self.engine

    @property
    def training(self) -> float:
        return self.state + self.reference + self.layer + self.logits


def memory(config: DictConfig, gpu: float = GPU) -> Memory:
    """The memory of a recipe on GPUs of ``gpu`` gigabytes."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    size = PARAMETERS[config.recipe.vlm]
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    lora = config.actor_rollout_ref.model.lora_rank > 0
    trained = size * LORA_SHARE if lora else size
    frozen = size if lora or actor.use_kl_loss else 0
    tokens = (config.data.max_prompt_length + config.data.max_response_length) * actor.ppo_micro_batch_size_per_gpu
    offloaded = bool(OmegaConf.select(actor, "fsdp_config.optimizer_offload"))
    kept = TRAINED_BYTES // 2 if offloaded else TRAINED_BYTES
    return Memory(
        state=trained * kept / gpus,
        reference=frozen * FROZEN_BYTES / gpus,
        layer=size * 2 / 28,
        logits=tokens * VOCABULARY * 4 * LOGITS_COPIES / 1e9,
        engine=gpu * rollout.gpu_memory_utilization,
    )


def engine_weights(config: DictConfig) -> float:
    """Gigabytes of the engine's own weights, which have to fit into its share with room for a cache."""
    return PARAMETERS[config.recipe.vlm] * 2 / config.actor_rollout_ref.rollout.tensor_model_parallel_size


def main(arguments: Sequence[str]) -> int:
    """Prints the table; status 2 for a recipe that does not compose."""
    try:
        config = compose_recipe(*arguments)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = memory(config)
    table = Table("GB on each GPU", "", title=f"{config.trainer.experiment_name}: arithmetic, not measured")
    for name in ("state", "reference", "layer", "logits", "engine", "generating", "training"):
        table.add_row(name, f"{getattr(found, name):.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"Assumed: cards of {GPU:g} GB; {TRAINED_BYTES} bytes for a trained parameter and {FROZEN_BYTES} for a frozen "
        f"one, sharded over all GPUs; {LOGITS_COPIES} copies of the logits in fp32. Left out: activations, "
        "fragmentation, communication buffers.",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
