"""Agent-loop workers that mine each image and ask no question, through all of verl's own stack.

Named by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``. The rollouts' cost is left out; everything else
of a training step is as it is.
"""

from typing import Any

import ray
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.utils import tensordict_utils

from divek_verl.records import QuestionRecord
from divek_verl.reward import compute_score
from divek_verl.trainer.rollout import TwoStageAgentLoopManager, TwoStageAgentLoopWorker

# The columns that the trainer needs of a rollout; the others would be sent, stored and fetched for nothing.
COLUMNS = ("uid", "index", "data_source", "reward_model")


class MiningOnlyWorker(TwoStageAgentLoopWorker):
    """Mines and builds the question; a rollout of one token and score 0 stands in for its answers.

    The trainer waits for a rollout of each image. It is put into the queue while the trainer still hands out the batch,
    before the phase that is timed: a training step puts it there after mining, as a part of the rollouts.
    """

    async def generate_sequences(self, batch: TensorDict) -> None:
        columns = {name: tensordict_utils.get(batch, name) for name in COLUMNS}
        step = tensordict_utils.get(batch, "global_steps")
        extra = {"reward_extra_info": dict(compute_score("divek/none", "", "A", {"num_options": 2}))}
        extra |= {"turn_scores": [], "tool_rewards": [], "min_global_steps": step, "max_global_steps": step}
        token = [self.tokenizer.eos_token_id]
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True), global_steps=step, session_id=0)
            output = AgentLoopOutput(
                prompt_ids=token,
                response_ids=token,
                response_mask=[1],
                response_logprobs=[0.0],
                reward_score=0.0,
                num_turns=2,
                metrics=AgentLoopMetrics(),
                extra_fields=extra,
            )
            await self._agent_loop_postprocess(output, False, **row)
        await super().generate_sequences(batch)

    async def _visit(self, prompt: Any, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        truth, image_id = prompt["reward_model"]["ground_truth"], str(prompt["extra_info"]["image_id"])
        record = QuestionRecord(int(trajectory["step"]), "train", prompt["data_source"], image_id, "", truth)
        await self.questions.rewrite(prompt, record)
        await self.recorder.record_votes.remote(record)
        await self.recorder.write.remote(record)
        await self._publish_status(prompt, trajectory, "finished")


class MiningOnlyManager(TwoStageAgentLoopManager):
    """verl's manager with these workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(MiningOnlyWorker)
