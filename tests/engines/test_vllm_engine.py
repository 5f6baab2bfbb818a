"""The engine in this process: real vLLM on the CPU with a small untrained model, and a run of it that is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from divek_verl import prompts
from divek_verl.commands.mine import mine
from divek_verl.cpu.machine import prepare_machine
from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save
from divek_verl.demo.processes import running
from divek_verl.engines import open_engine
from divek_verl.engines.base import Reply, Request, Sampling
from divek_verl.engines.options import Backend, EngineOptions, SamplingOptions
from divek_verl.engines.rows import read_rows
from divek_verl.engines.vllm_engine import CPU_EXECUTOR, VllmEngine, engine_arguments
from divek_verl.errors import SetupError
from divek_verl.prepare import write_set
from divek_verl.votes_file import VotesLog, read_votes_file

from .conftest import CLASSES, NAMES, paint
from .server import vllm_server

IMAGES = 40
SAMPLES = 4
SECONDS_TO_START = 280.0
SECONDS_TO_END = 20.0
SAMPLING = Sampling(max_new_tokens=6, repetition_penalty=1.0, seed=1)


@pytest.mark.parametrize("wrong", ["name", "length"])
def test_what_vllm_refuses_before_it_starts_is_one_sentence(
    wrong: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options = (
        EngineOptions("no-such-model") if wrong == "name" else EngineOptions(str(home / "model"), max_model_len=10**7)
    )
    with pytest.raises(SetupError, match="vLLM did not start with") as stopped:
        asyncio.run(VllmEngine.start(options))
    assert "\n" not in str(stopped.value) and len(str(stopped.value)) < 600
    log = Path(str(stopped.value).partition("): see ")[2].partition(", or give")[0])
    assert log.name.startswith("divek-engine-") and log.is_file()
    with pytest.raises(SetupError, match="see its messages above"):
        asyncio.run(VllmEngine.start(replace(options, verbose=True)))


def test_our_options_become_vllms() -> None:
    options = EngineOptions("m", tensor_parallel=2, data_parallel=4, dtype="bfloat16", max_model_len=900)
    for on_cpu in (False, True):
        arguments = engine_arguments(options, on_cpu)
        assert arguments["tensor_parallel_size"] == 2 and arguments["data_parallel_size"] == 4
        assert arguments["dtype"] == "bfloat16" and arguments["max_model_len"] == 900


@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_model_is_compiled_on_gpus_or_where_the_user_says_so(on_cpu: bool) -> None:
    def eager(compile: bool | None) -> bool:
        options = EngineOptions("m", max_model_len=900, compile=compile)
        return bool(engine_arguments(options, on_cpu)["enforce_eager"])

    assert eager(None) is on_cpu
    assert eager(True) is False
    assert eager(False) is True


def test_the_cpu_engine_shares_blocks_of_small_prompts_and_splits_no_prompt() -> None:
    arguments = engine_arguments(EngineOptions("m", max_model_len=900), on_cpu=True)
    assert arguments["dtype"] == "float32" and arguments["block_size"] == 16
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] >= arguments["max_model_len"]


def test_one_process_runs_and_schedules_the_model_on_the_cpu(home: Path) -> None:
    """If vLLM keeps the short name too, CPU_EXECUTOR can be that."""
    from vllm.engine.arg_utils import EngineArgs

    def executor(**changes: Any) -> Any:
        arguments = {**engine_arguments(EngineOptions(str(home / "model")), on_cpu=True), **changes}
        return EngineArgs(**arguments).create_engine_config().parallel_config.distributed_executor_backend

    assert executor() == CPU_EXECUTOR and executor(distributed_executor_backend="uni") == "mp"
    several = engine_arguments(EngineOptions(str(home / "model"), tensor_parallel=2), on_cpu=True)
    assert several["distributed_executor_backend"] == "mp"
    # The YAML file cannot import the name.
    rollout = OmegaConf.load(resources.files("divek_verl") / "config" / "divek_cpu.yaml").actor_rollout_ref.rollout
    assert rollout.engine_kwargs.vllm.distributed_executor_backend == CPU_EXECUTOR
    assert not rollout.enable_chunked_prefill


class Running:
    """A started engine, and the event loop that it lives on."""

    def __init__(self, home: Path, copies: int = 1) -> None:
        self.home = home
        self.rows = read_rows([home / "train.parquet"], min_pixels=3136, max_pixels=401408)
        self.loop = asyncio.new_event_loop()
        options = EngineOptions(str(home / "model"), max_images_in_flight=8, data_parallel=copies)
        self.engine = self.wait_for(VllmEngine.start(options))

    def wait_for(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def ask(self, *requests: Request, sampling: Sampling = SAMPLING) -> list[Reply]:
        return self.ask_all(*((request, sampling) for request in requests))

    def ask_all(self, *requests: tuple[Request, Sampling]) -> list[Reply]:
        async def all_at_once() -> list[Reply]:
            return await asyncio.gather(*(self.engine.generate(*request) for request in requests))

        return list(self.wait_for(all_at_once()))

    def close(self) -> None:
        self.wait_for(self.engine.close())
        self.loop.close()

    def request(self, index: int, count: int = SAMPLES) -> Request:
        key = self.rows.keys[index]
        return Request("/".join(key), self.rows[key].messages, count)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures and an untrained model that can read the questions about them."""
    folder = tmp_path_factory.mktemp("mining")
    write_set(folder, "flags", CLASSES, [paint(folder, "train", "base", IMAGES)])
    texts = [prompts.open_question(prompts.Wording(), NAMES), "user assistant"]
    tokenizer = build_tokenizer(texts, NAMES)
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder / "model")
    return folder


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not path.is_file() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


@dataclass
class Killed:
    """What a ``divek mine`` left that was killed in the middle: its votes file, and processes that outlived it."""

    out: Path
    lines: list[str]
    left_running: list[str]


@pytest.fixture(scope="module")
def killed(home: Path) -> Killed:
    out, log = home / "votes.jsonl", home / "mine.log"
    command = [sys.executable, "-m", "divek_verl.cli", "mine", "--data", str(home / "train.parquet")]
    command += ["--model", str(home / "model"), "--out", str(out), "--samples", str(SAMPLES)]
    # One image at a time, so that the kill comes between the first and the last.
    command += ["--max-new-tokens", "6", "--max-images-in-flight", "1"]
    with running(command, log, {}) as process:
        wait_for_lines(out, 2 + 3, process, log)
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, left = psutil.wait_procs(started, timeout=SECONDS_TO_END)
        names = [" ".join(other.cmdline()) for other in left]
    return Killed(out, out.read_text(encoding="utf-8").splitlines(), names)


@pytest.fixture(scope="module")
def engine(home: Path, killed: Killed) -> Iterator[Running]:
    prepare_machine()
    started = Running(home)
    yield started
    started.close()


slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("command", ["mine", "predict"])
def test_ctrl_c_while_the_engine_starts_ends_everything(command: str, home: Path, tmp_path: Path) -> None:
    arguments = {
        "mine": ["--data", str(home / "train.parquet"), "--out", str(tmp_path / "votes.jsonl")],
        "predict": [str(home / "images" / "train-0.png"), "--data", str(home)],
    }[command]
    call = [sys.executable, "-m", "divek_verl.cli", command, *arguments, "--model", str(home / "model")]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("starting vLLM, 1 to 2 minutes the first time; its messages: "):
                break
        started: list[psutil.Process] = []
        while not any("spawn_main" in " ".join(child.cmdline()) for child in started):
            assert process.poll() is None
            time.sleep(0.1)
            started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        try:
            shown, errors = process.communicate(timeout=SECONDS_TO_END)
        finally:
            process.kill()
    _, left = psutil.wait_procs(started, timeout=SECONDS_TO_END)
    assert left == []
    assert process.returncode == 130
    assert "stopped" in shown + errors and "Traceback" not in shown + errors


@slow
@pytest.mark.timeout(900)
def test_a_kill_leaves_no_process_behind(killed: Killed) -> None:
    assert killed.left_running == []


@slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_with_nothing_mined_twice_and_nothing_lost(killed: Killed, engine: Running) -> None:
    options = SamplingOptions(samples=SAMPLES, max_new_tokens=6)
    held = read_votes_file(killed.out)
    assert 3 <= len(held.votes) < IMAGES and not held.complete
    asked: list[str] = []
    log = VotesLog(killed.out, held.origin)

    class Listening:
        model = engine.engine.model
        close = engine.engine.close

        async def generate(self, request: Request, sampling: Sampling) -> Reply:
            asked.append(request.key)
            return await engine.engine.generate(request, sampling)

    summary = engine.wait_for(mine(engine.rows, Listening(), log, options, in_flight=8))
    log.close(engine.rows.keys)
    before = {mined.key for mined in held.votes}
    assert sorted(asked) == sorted("/".join(key) for key in engine.rows.keys if key not in before)
    assert (summary.before, summary.mined) == (len(before), IMAGES - len(before))
    found = read_votes_file(killed.out)
    assert [mined.key for mined in found.votes] == engine.rows.keys
    assert found.complete and found.torn == 0
    assert all(mined.votes.total == SAMPLES for mined in found.votes)
    assert [mined for mined in found.votes if mined.key in before] == sorted(
        held.votes, key=lambda mined: engine.rows.keys.index(mined.key)
    )


@slow
def test_a_request_brings_its_samples_and_says_what_they_cost(engine: Running) -> None:
    (reply,) = engine.ask(engine.request(0))
    assert reply.failure is None and len(reply.texts) == SAMPLES
    assert 0 < reply.output_tokens <= 6 * SAMPLES
    assert reply.prompt_tokens > 12  # the text, and a token for each 28 x 28 pixels of the picture


@slow
def test_the_same_seed_gives_the_same_samples_whatever_else_is_asked(engine: Running) -> None:
    (alone,) = engine.ask(engine.request(1))
    among = engine.ask(*(engine.request(index) for index in range(12)))
    assert among[1].texts == alone.texts
    assert len(set(alone.texts)) > 1
    (other,) = engine.ask(engine.request(1), sampling=Sampling(max_new_tokens=6, repetition_penalty=1.0, seed=2))
    assert other.texts != alone.texts


@slow
@pytest.mark.timeout(900)
def test_two_copies_share_the_images_and_answer_as_one_does(engine: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds decide, and neither the copy nor greedy requests, which have no seed, in the same batch."""
    requests = [engine.request(index) for index in range(12)]
    greedy = replace(SAMPLING, temperature=0.0)
    expected = [*engine.ask(*requests), *engine.ask(replace(requests[0], key="greedy", count=1), sampling=greedy)]
    copies = Running(engine.home, copies=2)
    ranks: list[int] = []
    generate = copies.engine.llm.generate

    def noted(*args: Any, data_parallel_rank: int, **kwargs: Any) -> Any:
        ranks.append(data_parallel_rank)
        return generate(*args, data_parallel_rank=data_parallel_rank, **kwargs)

    monkeypatch.setattr(copies.engine.llm, "generate", noted)
    found = copies.ask_all(
        *((request, SAMPLING) for request in requests), (replace(requests[0], key="greedy", count=1), greedy)
    )
    copies.close()
    assert [reply.texts for reply in found] == [reply.texts for reply in expected]
    assert min(ranks.count(0), ranks.count(1)) >= 4


@slow
def test_the_prompt_is_the_one_that_training_samples_from(engine: Running) -> None:
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    processor = engine.engine._prompts.processor
    messages = engine.rows[engine.rows.keys[0]].messages
    prompt = engine.engine._prompts(messages)
    builder = create_continuous_token_builder(processor.tokenizer, hf_model_type="qwen2_5_vl", processor=processor)
    online = builder.build_initial_tokens(messages, images=prompt.images)
    (reply,) = engine.ask(engine.request(0))
    assert reply.prompt_tokens == len(online)


@slow
def test_what_is_wrong_with_one_request_is_its_own_failure(engine: Running, tmp_path: Path) -> None:
    def about(path: Path, text: str = "Which flag?") -> list[dict[str, Any]]:
        image = {"type": "image", "image": str(path), "min_pixels": 3136, "max_pixels": 401408}
        return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]

    broken = tmp_path / "broken.png"
    broken.write_bytes((engine.home / "images" / "train-0.png").read_bytes()[:60])
    picture = engine.home / "images" / "train-0.png"
    replies = engine.ask(
        Request("missing", about(tmp_path / "missing.png")),
        Request("broken", about(broken)),
        Request("long", about(picture, "Chad " * 5000)),
        Request("right", about(picture)),
    )
    reasons = ["unreadable_image", "unreadable_image", "overlong_prompt", None]
    assert [reply.failure for reply in replies] == reasons


@slow
def test_a_prompt_longer_than_what_is_left_of_a_step_is_not_split(engine: Running) -> None:
    """vLLM 0.28 dies on a CPU where a seeded request's prompt is split."""
    replies = engine.ask(*(engine.request(index, count=16) for index in range(IMAGES)))
    assert [len(reply.texts) for reply in replies] == [16] * IMAGES


@slow
@pytest.mark.timeout(900)
def test_vllms_server_sees_the_same_prompts_and_pictures(engine: Running) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.1, max_new_tokens=6)
    single = [engine.request(index, count=1) for index in range(4)]
    here = engine.ask(*single, sampling=greedy)

    async def there(url: str) -> tuple[list[Reply], Reply]:
        async with open_engine(EngineOptions("flags", Backend.OPENAI, base_url=url)) as server:
            replies = [await server.generate(request, greedy) for request in single]
            return replies, await server.generate(engine.request(0), SAMPLING)

    with vllm_server(engine.home / "model", "flags") as url:
        replies, several = engine.wait_for(there(url))
    assert [reply.texts for reply in replies] == [reply.texts for reply in here]
    assert [reply.prompt_tokens for reply in replies] == [reply.prompt_tokens for reply in here]
    assert several.failure is None and len(several.texts) == SAMPLES
