"""Agent-loop workers of a benchmark: each image is mined and asked no question, through all of verl's own stack.

Named by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``; what the rollouts would have cost is left out,
and everything else of a training step is as it is.
"""

from typing import Any

import ray
import transfer_queue as tq

from divek_verl.rollout import TwoStageAgentLoopManager, TwoStageAgentLoopWorker

NOTHING = [{"role": "user", "content": "."}]


class MiningOnlyWorker(TwoStageAgentLoopWorker):
    """Mines, builds the question, and publishes one-token rollouts of score 0 in its place."""

    async def _visit(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        partition = "val" if trajectory["validate"] else "train"
        await tq.async_kv_put(key=prompt["uid"], partition_id=partition, tag={"status": "running"})
        visit = self._new_visit(prompt, trajectory)
        rewritten = await self._ask(prompt, visit)
        await self.recorder.note_mined.remote(visit)
        await self.recorder.write.remote(visit)
        for session in range(self._sessions(prompt, trajectory)):
            # Without the picture, which verl would process once more.
            answered = {**(rewritten or prompt), "raw_prompt": NOTHING, "session_id": session}
            await self._publish_zero(answered, "not_asked", trajectory["validate"])
        await tq.async_kv_put(key=prompt["uid"], partition_id=partition, tag={"status": "finished"})


class MiningOnlyManager(TwoStageAgentLoopManager):
    """verl's manager with these workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(MiningOnlyWorker)
