"""Agent-loop workers of a benchmark: each image is mined and asked no question, through all of verl's own stack.

Named by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``; what the rollouts would have cost is left out,
and everything else of a training step is as it is.
"""

from typing import Any

import ray
import transfer_queue as tq
from tensordict import TensorDict
from verl.utils import tensordict_utils

from divek_verl.trainer.rollout import TwoStageAgentLoopManager, TwoStageAgentLoopWorker

# What the trainer asks of a rollout; the rest of a row would be sent, stored and fetched for nothing.
COLUMNS = ("uid", "index", "data_source", "reward_model")


class MiningOnlyWorker(TwoStageAgentLoopWorker):
    """Mines and builds the question; one-token rollouts of score 0, published beforehand, stand in for its answers.

    The trainer waits for rollouts of each image. They are put into the queue while it still hands out the batch,
    before the phase that is timed: a training step puts them there after mining, as a part of the rollouts.
    """

    async def generate_sequences(self, batch: TensorDict) -> None:
        validate = bool(tensordict_utils.get(batch, "validate", False))
        columns = {name: tensordict_utils.get(batch, name) for name in COLUMNS}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True), global_steps=tensordict_utils.get(batch, "global_steps"))
            for session in range(self._sessions(row, {"validate": validate})):
                await self._publish_zero({**row, "session_id": session}, "not_asked", validate)
        await super().generate_sequences(batch)

    async def _visit(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        visit = self._new_visit(prompt, trajectory)
        await self._ask(prompt, visit)
        await self.recorder.note_mined.remote(visit)
        await self.recorder.write.remote(visit)
        partition = "val" if trajectory["validate"] else "train"
        await tq.async_kv_put(key=prompt["uid"], partition_id=partition, tag={"status": "finished"})


class MiningOnlyManager(TwoStageAgentLoopManager):
    """verl's manager with these workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(MiningOnlyWorker)
