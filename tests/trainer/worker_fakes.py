"""Stand-ins around the two-stage worker: verl's own code runs; the engine, Ray and TransferQueue are replaced."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.replica import TokenOutput

from divek_verl import prompts
from divek_verl.compat import GROUP_FIELD
from divek_verl.records import QuestionRecord
from divek_verl.reward import compute_score
from divek_verl.settings import Settings
from divek_verl.trainer.dataset import DiveKDataset
from divek_verl.trainer.rollout import TwoStageAgentLoopWorker
from divek_verl.trainer.vote_store import VoteStore

CLASSES = ("Chad", "Romania", "Andorra", "Moldova")
CUT = "<think>" + "red " * 40
GROUP = 3
TRAIN = {"step": 4, "sample_index": 0, "rollout_n": 0, "validate": False}
VALIDATE = {**TRAIN, "validate": True}


def answer(text: str) -> str:
    return f"<think>red</think><answer>{text}</answer>"


class FakeClient:
    """verl's client of the rollout engine: K answers to the open question, then the rollouts of the question.

    ``answers`` are the former in turn, ``choose`` turns the question's text into one of the latter; an exception
    stands for a request that failed, a number for one that takes so many seconds.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.answers: list[Any] = [answer("Chad")]
        self.greedy_answer: Any = answer("Moldova")
        self.greedy: list[dict] = []
        self.choose: Callable[[str], Any] = lambda question: answer("A")
        self.votes: list[dict] = []
        self.rollouts: list[dict] = []
        self.in_flight: Counter[str] = Counter()
        self.most_images_in_flight = 0
        # Samples wait until those of so many images are in flight, and those of these images until they are let go.
        self.crowd, self.crowd_is_here = 0, asyncio.Event()
        self.held: dict[str, asyncio.Event] = {}

    async def generate(self, request_id: str, *, sampling_params: dict, **others: Any) -> TokenOutput:
        count = sampling_params.get("n", 1)
        if count == 1:
            return await self._one(request_id, sampling_params=sampling_params, **others)
        outputs = [await self._one(request_id, sampling_params=sampling_params, **others) for _ in range(count)]
        del self.votes[len(self.votes) - count + 1 :]
        group = [(output.token_ids, output.stop_reason or "completed") for output in outputs]
        outputs[0].extra_fields[GROUP_FIELD] = group
        return outputs[0]

    async def _one(self, request_id: str, *, prompt_ids: list, sampling_params: dict, **others: Any) -> TokenOutput:
        request = {"request_id": request_id, "prompt_ids": prompt_ids, "params": sampling_params, **others}
        voting = "-vote" in request_id
        if voting and sampling_params["temperature"] == 0:
            content = self.greedy_answer
            self.greedy.append(request)
        elif voting:
            content = self.answers[len(self.votes) % len(self.answers)]
            self.votes.append(request)
        else:
            content = self.choose(self.tokenizer.decode(prompt_ids))
            self.rollouts.append(request)
        uid = request_id.partition("-vote")[0]
        self.in_flight[uid] += voting
        self.most_images_in_flight = max(self.most_images_in_flight, len(+self.in_flight))
        if self.most_images_in_flight >= self.crowd:
            self.crowd_is_here.set()
        await self.crowd_is_here.wait()
        if uid in self.held:
            await self.held[uid].wait()
        await asyncio.sleep(content if isinstance(content, float) else 0)
        self.in_flight[uid] -= voting
        if isinstance(content, Exception):
            raise content
        tokens = self.tokenizer.encode(str(content), add_special_tokens=False)
        if content != CUT:
            tokens.append(self.tokenizer.eos_token_id)
        extra_fields = {"global_steps": 9, "num_cached_tokens": 30}
        return TokenOutput(token_ids=tokens[:40], log_probs=[-0.5] * len(tokens[:40]), extra_fields=extra_fields)


class FakeRecorder:
    def __init__(self) -> None:
        self.mined: list[QuestionRecord] = []
        self.written: list[QuestionRecord] = []
        self.record_votes = SimpleNamespace(remote=self._keeps(self.mined))
        self.write = SimpleNamespace(remote=self._keeps(self.written))
        self.resting: set[str] = set()
        self.rests = SimpleNamespace(remote=self._rests)

    async def _rests(self, data_source: str, image_id: str) -> bool:
        return image_id in self.resting

    @staticmethod
    def _keeps(records: list[QuestionRecord]) -> Any:
        async def keep(record: QuestionRecord) -> None:
            records.append(record)

        return keep


class FakeStore:
    """The vote store without its actor."""

    def __init__(self, max_age: int | None) -> None:
        self.votes = VoteStore(max_age)
        self.put = SimpleNamespace(remote=self._awaited(self.votes.put))
        self.look_up = SimpleNamespace(remote=self._awaited(self.votes.look_up))

    @staticmethod
    def _awaited(call: Any) -> Any:
        async def remote(*arguments: Any) -> Any:
            return call(*arguments)

        return remote


class FakeRewardWorker:
    """verl's naive reward manager, without its actor."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.graded: list[dict] = []
        self.compute_score = SimpleNamespace(remote=self._compute_score)

    async def _compute_score(self, data: Any) -> dict:
        row = {name: values[-1] for name, values in data.non_tensor_batch.items()}
        text = self.tokenizer.decode(data.batch["responses"][-1], skip_special_tokens=True)
        truth = row["reward_model"]["ground_truth"]
        scores = compute_score(row["data_source"], text, truth, row["extra_info"])
        self.graded.append({"text": text, "ground_truth": truth, "extra_info": row["extra_info"]})
        return {"reward_score": scores["score"], "reward_extra_info": scores}


class FakeQueue:
    def __init__(self) -> None:
        self.statuses: dict[str, list[str]] = {}
        self.trajectories: dict[str, dict] = {}

    async def put(self, key: str, partition_id: str, tag: dict) -> None:
        self.statuses.setdefault(f"{partition_id}/{key}", []).append(tag["status"])

    async def put_batch(self, keys: list[str], fields: Any, tags: list[dict], partition_id: str) -> None:
        for index, key in enumerate(keys):
            self.trajectories[f"{partition_id}/{key}"] = {name: fields[name][index] for name in fields.keys()}  # noqa: SIM118


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    fake = FakeQueue()
    monkeypatch.setattr("transfer_queue.async_kv_put", fake.put)
    monkeypatch.setattr("transfer_queue.async_kv_batch_put", fake.put_batch)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.json").write_text(json.dumps({"base": list(CLASSES), "new": ["Monaco", "Indonesia"]}))
    Image.new("RGB", (112, 84), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def prompt(folder: Path) -> dict[str, Any]:
    """A row as verl hands it to the worker."""
    picture = {"type": "image", "image": str(folder / "a.png"), "min_pixels": 784, "max_pixels": 401408}
    text = {"type": "text", "text": prompts.open_question(prompts.Wording(), CLASSES)}
    return {
        "uid": "u1",
        "agent_name": "single_turn_agent",
        "data_source": "divek/flags/base",
        "raw_prompt": [{"role": "user", "content": [picture, text]}],
        "reward_model": {"style": "rule", "ground_truth": "Chad"},
        "extra_info": {"index": 7, "split": "train", "image_id": "chad-1", "dataset": "flags"},
        "index": 7,
        "image_root": str(folder),
        "global_steps": 4,
    }


def make_worker(config: Any, processor: Any, *, answers: Any = None, choose: Any = None, **divek: Any) -> Any:
    worker = TwoStageAgentLoopWorker.__new__(TwoStageAgentLoopWorker)
    worker.config = config
    worker.rollout_config = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    worker.dataset_cls, worker.hf_model_type, worker.tools = DiveKDataset, "qwen2_5_vl", []
    worker.tokenizer, worker.processor, worker.mm_processor_kwargs = processor.tokenizer, processor, {}
    worker.distillation_enabled = False
    client = worker.llm_client = FakeClient(processor.tokenizer)
    client.answers, client.choose = answers or client.answers, choose or client.choose
    worker.reward_loop_worker_handles = [FakeRewardWorker(processor.tokenizer)]
    settings = Settings(**{"num_samples": 4, "group_requests": False, **divek})
    worker.store = FakeStore(settings.max_vote_age) if settings.reuses_votes else None
    worker._set_up(settings, FakeRecorder(), worker.store)
    return worker


@pytest.fixture
def build(compose: Any, processor: Any, queue: FakeQueue) -> Callable[..., Any]:
    """A worker with a real configuration and these answers of its engine; other keyword arguments are ``divek.*``."""

    def build_worker(*overrides: str, **options: Any) -> Any:
        lengths = ("data.max_prompt_length=256", "data.max_response_length=40", f"actor_rollout_ref.rollout.n={GROUP}")
        return make_worker(compose(*lengths, *overrides, name="divek_cpu"), processor, **options)

    return build_worker


def run(worker: Any, prompt: dict, trajectory: dict = TRAIN) -> Any:
    """One prompt through the worker, with the sampling parameters of verl's rollouts; gives the record, if any."""
    params = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
    worker.miner._loop = None  # it belongs to the event loop of one run
    before = len(worker.recorder.written)
    asyncio.run(worker._run_prompt(prompt, params, trajectory))
    written = worker.recorder.written[before:]
    assert len(written) <= 1
    return written[0] if written else None
