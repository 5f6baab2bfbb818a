import asyncio
import importlib
import importlib.util
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from divek_verl import compat

# Components of Qwen2.5-VL's position ids: text, time, height, width.
COMPONENTS = 4
Fix = Callable[[TensorDict], None]


def as_verl_ships_it(name: str) -> ModuleType:
    """A module of verl's read a second time, so without the hooks that repaired the first."""
    spec = importlib.util.find_spec(name)
    assert spec and spec.origin
    again = importlib.util.spec_from_file_location(f"{name.rsplit('.', 1)[-1]}_without_repair", spec.origin)
    assert again and again.loader
    module: ModuleType = importlib.util.module_from_spec(again)
    again.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def verls_own() -> Fix:
    """``maybe_fix_3d_position_ids`` as verl ships it."""
    fix: Fix = as_verl_ships_it("verl.utils.tensordict_utils").maybe_fix_3d_position_ids
    assert fix is not compat.rebuild_position_ids
    return fix


def rows(*lengths: int) -> list[torch.Tensor]:
    """Position ids of sequences of these lengths, each of shape (components, length), no number twice."""
    total = sum(lengths) * COMPONENTS
    flat = torch.arange(total).split([COMPONENTS * length for length in lengths])
    return [part.reshape(COMPONENTS, length) for part, length in zip(flat, lengths, strict=True)]


def batch(*lengths: int) -> TensorDict:
    """The batch as it comes out of verl's queue: a jagged tensor of the rows."""
    nested = torch.nested.as_nested_tensor(rows(*lengths), layout=torch.jagged)
    return TensorDict({"position_ids": nested}, batch_size=[len(lengths)])


def assert_rows(data: TensorDict, *lengths: int) -> None:
    """As verl's engines read the tensor."""
    for read, expected in zip(data["position_ids"].unbind(), rows(*lengths), strict=True):
        assert torch.equal(read, expected)


EQUAL = [(7, 7), (5, 5, 5), (7,), (1,), (1, 1), (COMPONENTS, COMPONENTS)]
UNEQUAL = [(7, 5), (3, 9, 4), (1, 2)]
# Here both readings are one.
AMBIGUOUS = [(COMPONENTS,)]


@pytest.mark.parametrize("lengths", EQUAL)
def test_verl_7899_verls_own_function_crashes_on_batches_of_one_length(
    verls_own: Fix, lengths: tuple[int, ...]
) -> None:
    """If this fails, the installed verl is fixed: remove the repair from divek_verl/compat.py."""
    data = batch(*lengths)
    verls_own(data)
    # The words differ from one release of torch to the next.
    with pytest.raises(RuntimeError, match="split_with_sizes expects split_sizes to sum|Expected cond to be True"):
        data["position_ids"].unbind()


@pytest.mark.parametrize("lengths", EQUAL + UNEQUAL + AMBIGUOUS)
def test_with_the_repair_every_row_is_read_back(lengths: tuple[int, ...]) -> None:
    data = batch(*lengths)
    for _ in ("in the worker", "again in the engine"):
        compat.rebuild_position_ids(data)
        assert data["position_ids"]._ragged_idx == 2
        assert data["position_ids"].offsets().diff().tolist() == list(lengths)
        assert_rows(data, *lengths)


@pytest.mark.parametrize("lengths", UNEQUAL)
def test_what_verls_own_function_was_written_for_still_works(verls_own: Fix, lengths: tuple[int, ...]) -> None:
    """Pickling makes a tensor forget which dimension is ragged."""
    for fix in (verls_own, compat.rebuild_position_ids):
        data = batch(*lengths)
        data["position_ids"]._ragged_idx = 1
        fix(data)
        assert_rows(data, *lengths)


def test_other_batches_are_left_alone() -> None:
    plain = torch.arange(12).reshape(2, 6)
    nested = torch.nested.as_nested_tensor([torch.arange(3), torch.arange(5)], layout=torch.jagged)
    for position_ids in (plain, plain.reshape(2, 3, 2), nested):
        data = TensorDict({"position_ids": position_ids}, batch_size=[2])
        compat.rebuild_position_ids(data)
        assert data["position_ids"] is position_ids
    data = TensorDict({"input_ids": plain}, batch_size=[2])
    compat.rebuild_position_ids(data)
    assert list(data.keys()) == ["input_ids"]


def test_the_repair_reaches_every_module_that_verl_uses_the_function_in() -> None:
    from verl.utils import tensordict_utils
    from verl.workers import engine_workers
    from verl.workers.engine import base

    for module in (tensordict_utils, engine_workers, base):
        assert module.maybe_fix_3d_position_ids is compat.rebuild_position_ids


def hooked(register: Callable[[], None], version: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that ``register`` leaves hooks for, were this the version of every package."""
    registered: list[Any] = []
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    monkeypatch.setattr("wrapt.register_post_import_hook", lambda *hook: registered.append(hook))
    register()
    return [module for _, module in registered]


REPAIRED = [
    "verl.utils.tensordict_utils",
    "verl.models.transformers.qwen2_vl",
    "verl.models.transformers.glm4v",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer",
]


@pytest.mark.parametrize(
    ("register", "version", "hooks"),
    [
        *((compat.register_hooks, version, REPAIRED) for version in ("0.9.1", "0.9.5")),
        *((compat.register_hooks, version, []) for version in ("0.8.0", "0.10.0")),
        *((compat.register_vllm_hooks, version, ["vllm.v1.engine.async_llm"]) for version in ("0.24.0", "0.28.1")),
        *((compat.register_vllm_hooks, version, []) for version in ("0.23.0", "0.29.0")),
    ],
)
def test_a_repair_is_for_the_versions_that_need_it(
    register: Callable[[], None], version: str, hooks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hooked(register, version, monkeypatch) == hooks


# ---------------------------------------------------------------- the output of the vision tower


@pytest.fixture(scope="module")
def qwen2_vl() -> Any:
    from divek_verl.demo.model import build_model, build_tokenizer

    return build_model(build_tokenizer(["What is two plus two?"], ["Chad"]), seed=0).model


@pytest.fixture(scope="module")
def glm4v() -> Any:
    from transformers import Glm4vConfig, Glm4vModel

    shape = {"hidden_size": 16, "intermediate_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    text: dict[str, Any] = {"num_hidden_layers": 1, "vocab_size": 64, **heads, **shape}
    vision = {"depth": 1, "num_heads": 2, "out_hidden_size": 16, **shape}
    text |= {"pad_token_id": 0, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    config = Glm4vConfig(text_config=text, vision_config=vision, image_token_id=9)
    return Glm4vModel(config)


TOKENS = torch.tensor([[1, 2, 3]])


@pytest.fixture(params=["qwen2_vl", "glm4v"])
def model_type(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def small_model(request: pytest.FixtureRequest, model_type: str) -> Any:
    return request.getfixturevalue(model_type)


def test_as_verl_ships_it_a_batch_without_a_picture_dies(model_type: str, small_model: Any) -> None:
    """If this fails, verl unpacks the output itself: remove the repair of this module."""
    module = as_verl_ships_it(f"verl.models.transformers.{model_type}")
    with pytest.raises(AttributeError, match="has no attribute 'mean'"):
        module._get_input_embeds(small_model, TOKENS)


def test_with_the_repair_it_passes_and_still_reaches_the_vision_tower(model_type: str, small_model: Any) -> None:
    module = importlib.import_module(f"verl.models.transformers.{model_type}")
    mask = torch.ones_like(TOKENS)
    embeddings, kept = module._get_input_embeds(small_model, TOKENS, attention_mask=mask)
    assert torch.equal(embeddings, small_model.get_input_embeddings()(TOKENS))
    assert kept is not None and kept.shape == TOKENS.shape
    small_model.zero_grad()
    embeddings.sum().backward()
    # Each rank must take part in the vision tower's collectives, with gradients of zero.
    gradients = [parameter.grad for parameter in small_model.visual.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    positions = torch.arange(3).expand(COMPONENTS, 1, 3)
    forward = getattr(module, f"{model_type}_base_forward")
    output = forward(small_model, TOKENS, attention_mask=mask, position_ids=positions)
    assert output.last_hidden_state.shape[:2] == TOKENS.shape


def test_the_features_of_a_picture_take_the_place_of_its_tokens(model_type: str, small_model: Any) -> None:
    module = importlib.import_module(f"verl.models.transformers.{model_type}")
    vision = small_model.config.vision_config
    grid = torch.tensor([[1, 4, 4]])
    pixels = torch.randn(16, 3 * vision.temporal_patch_size * vision.patch_size**2)
    features = small_model.visual(pixels, grid_thw=grid).pooler_output
    tokens = torch.tensor([[1, *[small_model.config.image_token_id] * len(features), 2]])
    embeddings, _ = module._get_input_embeds(small_model, tokens, None, pixels, None, grid, None)
    assert torch.equal(embeddings[0, 1:-1], features)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5"])
def test_verls_newer_modules_need_no_repair(name: str) -> None:
    source = inspect.getsource(importlib.import_module(f"verl.models.transformers.{name}")._get_input_embeds)
    calls = source.count("model.visual(")
    assert calls == source.count("unpack_visual_output(") + source.count(").pooler_output") > 0


# ---------------------------------------------------------------- several completions of one request

SERVER_MODULE = "verl.workers.rollout.vllm_rollout.vllm_async_server"


class FakeEngine:
    """vLLM's engine as far as verl's ``generate`` uses it: two completions of one prompt."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def generate(self, *, sampling_params: Any, **others: Any) -> Any:
        self.asked.append(sampling_params)
        completions = [
            SimpleNamespace(token_ids=[number], finish_reason=reason, logprobs=None)
            for number, reason in enumerate(("stop", "abort"))
        ]
        yield SimpleNamespace(outputs=completions[: sampling_params.n], num_cached_tokens=16, prompt_logprobs=None)


def server_of(module: Any) -> Any:
    server = module.vLLMHttpServer.__new__(module.vLLMHttpServer)
    vars(server).update(
        config=SimpleNamespace(
            max_model_len=64,
            prompt_length=32,
            response_length=8,
            full_determinism=False,
            enable_rollout_routing_replay=False,
            mtp=None,
            get=lambda name, default: default,
        ),
        model_config=SimpleNamespace(processor=None, lora_rank=0, lora={}),
        engine=FakeEngine(),
        replica_rank=0,
        global_steps=3,
        _disaggregation_role=None,
        _submission_paused=False,
        _admitting=0,
    )
    return server


def ask(module: Any, **params: Any) -> tuple[Any, Any]:
    server = server_of(module)
    sampling = {"temperature": 1.0, **params}
    return server, asyncio.run(server.generate(prompt_ids=[1, 2], sampling_params=sampling, request_id="a"))


def test_verl_gives_back_one_completion_of_several() -> None:
    _, output = ask(as_verl_ships_it(SERVER_MODULE), n=2)
    assert output.token_ids == [0]
    assert compat.GROUP_FIELD not in output.extra_fields, "verl serves groups now: serve_groups is no longer needed"


def test_the_patched_server_gives_back_all() -> None:
    module = as_verl_ships_it(SERVER_MODULE)
    compat.serve_groups(module)
    server, output = ask(module, n=2)
    assert output.extra_fields[compat.GROUP_FIELD] == [([0], "completed"), ([1], "aborted")]
    assert (output.extra_fields["global_steps"], output.extra_fields["num_cached_tokens"]) == (3, 16)
    assert server._admitting == 0, "what verl counts on its server is counted there"
    (asked,) = server.engine.asked
    assert (asked.n, asked.output_kind.name) == (2, "FINAL_ONLY")


def test_a_request_for_one_completion_is_verls_own() -> None:
    module = as_verl_ships_it(SERVER_MODULE)
    compat.serve_groups(module)
    server, output = ask(module)
    assert output.token_ids == [0]
    assert compat.GROUP_FIELD not in output.extra_fields
    assert server.engine.asked[0].output_kind.name != "FINAL_ONLY"


@pytest.mark.parametrize(
    ("overrides", "serves"),
    [
        ((), True),
        (("trainer.v1.trainer_mode=colocate_async",), False),
        (("actor_rollout_ref.rollout.name=sglang",), False),
    ],
)
def test_groups_are_served_where_the_server_is_patched_and_aborts_nothing(
    compose: Any, overrides: tuple[str, ...], serves: bool
) -> None:
    assert compat.serves_groups(compose(*overrides, name="divek_cpu")) is serves


# ---------------------------------------------------------------- a picture of several completions

ENGINE_MODULE = "vllm.v1.engine.async_llm"
SAMPLES = 3


def picture_features() -> list[Any]:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    return [MultiModalFeatureSpec("pixels", "image", "id", PlaceholderRange(0, 2), "hash")]  # type: ignore[arg-type]


def sent_pixels(module: Any, cache: Any) -> list[Any]:
    """The pixels that each of ``SAMPLES`` requests for one prompt carries to the engine's process."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    sent: list[Any] = []

    class Process:
        async def add_request_async(self, request: Any) -> None:
            (feature,) = request.mm_features
            assert feature.mm_hash == "hash"
            sent.append(feature.data)

    class Engine(module.AsyncLLM):  # type: ignore[misc]
        errored = False

        def shutdown(self, timeout: float | None = None) -> None:
            """Nothing was started."""

    def give_id(request: Any) -> None:
        request.external_req_id, request.request_id = request.request_id, f"{request.request_id}-0"

    engine = Engine.__new__(Engine)
    vars(engine).update(
        vllm_config=SimpleNamespace(cache_config=SimpleNamespace(kv_sharing_fast_prefill=False)),
        model_config=None,
        renderer=SimpleNamespace(mm_processor_cache=cache),
        input_processor=SimpleNamespace(assign_request_id=give_id),
        output_processor=SimpleNamespace(add_request=lambda *_: None),
        engine_core=Process(),
        log_requests=False,
        _run_output_handler=lambda: None,
    )
    params = SamplingParams(n=SAMPLES)
    request = EngineCoreRequest("a", [1, 2], picture_features(), params, None, 0.0, None, None, None)
    asyncio.run(engine.add_request("a", request, params, prompt_text=""))
    return sent


@pytest.fixture
def shared_cache() -> Any:
    """The cache whose other half lies in the engine's process."""
    from vllm.multimodal.cache import MultiModalProcessorSenderCache

    return MultiModalProcessorSenderCache.__new__(MultiModalProcessorSenderCache)


def test_vllm_sends_the_pixels_with_each_completion(shared_cache: Any) -> None:
    sent = sent_pixels(as_verl_ships_it(ENGINE_MODULE), shared_cache)
    assert sent == ["pixels"] * SAMPLES, "vLLM sends a picture once now: send_pictures_once is no longer needed"


def test_the_patched_engine_sends_them_with_the_first_where_the_other_side_keeps_them(shared_cache: Any) -> None:
    module = as_verl_ships_it(ENGINE_MODULE)
    compat.send_pictures_once(module)
    assert sent_pixels(module, shared_cache) == ["pixels", None, None]
    assert sent_pixels(module, cache=None) == ["pixels"] * SAMPLES


def test_the_engine_is_patched_once_however_often_it_is_asked_for() -> None:
    from vllm.v1.engine import async_llm

    compat.register_vllm_hooks()
    compat.register_hooks()
    assert not hasattr(async_llm.AsyncLLM._add_request.__wrapped__, "__wrapped__")


# ---------------------------------------------------------------- the socket of the weights


JOB = "import ray; ray.init(num_cpus=1, include_dashboard=False); print(ray.get_runtime_context().get_job_id())"


@pytest.mark.slow
def test_the_first_job_of_every_ray_has_one_name(run_python: Callable[..., Any]) -> None:
    assert {run_python("-c", JOB).stdout.split()[-1] for _ in range(2)} == {"01000000"}


def test_verls_socket_is_named_after_the_job_and_its_ranks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

    worker = SimpleNamespace(model_runner=None, local_rank=0)
    names = set()
    for raylet in ("1", "2"):
        monkeypatch.setenv("RAY_RAYLET_PID", raylet)
        names.add(vLLMColocateWorkerExtension._get_zmq_handle(worker))
    assert len(names) == 1, "verl keeps runs apart: compat.keep_runs_apart is no longer needed"


def test_two_runs_send_their_weights_at_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real senders and receivers; both senders are there before a receiver is, which hangs without the repair."""
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender

    handle, received, senders, receivers = f"ipc://{tmp_path}/job.sock", {}, {}, {}
    for run in ("1", "2"):
        monkeypatch.setenv("RAY_RAYLET_PID", run)
        senders[run] = BucketedWeightSender(zmq_handle=handle, bucket_size_mb=1, use_shm=True)
        receivers[run] = BucketedWeightReceiver(zmq_handle=handle, device=torch.device("cpu"), use_shm=True)

    def send(run: str) -> None:
        asyncio.run(senders[run].async_send_weights(iter([("weight", torch.full((3,), float(run)))])))

    def receive(run: str) -> None:
        def keep(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            received[run] = weights[0][1].tolist()

        receivers[run].receive_weights(keep)

    work = [threading.Thread(target=do, args=(run,), daemon=True) for do in (send, receive) for run in senders]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(timeout=60)
    assert received == {"1": [1.0] * 3, "2": [2.0] * 3}
