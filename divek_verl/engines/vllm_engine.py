"""A model loaded here and now, by vLLM: one request an image, all of its samples from one prefill."""

import asyncio
import functools
import gc
import os
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from divek_verl.compat import register_vllm_hooks
from divek_verl.cpu.machine import prepare_machine, share_cores
from divek_verl.engines.base import Reply, Request, Sampling
from divek_verl.engines.copies import copies_on_a_cpu
from divek_verl.engines.options import EngineOptions
from divek_verl.engines.pictures import Prompt, PromptBuilder
from divek_verl.engines.requests import Slots, says_overlong, seed_of
from divek_verl.engines.watchdog import running_children, start_watchdog
from divek_verl.errors import SetupError
from divek_verl.images import UnreadableImage

# The default of vLLM's CPU engine, 128, is longer than a small prompt: no block of it would ever be shared.
CPU_BLOCK_SIZE = 16
# Unless --max-model-len says otherwise; a model's own length can need more memory than there is.
CPU_MODEL_LEN = 4096
# vLLM imports it by these names (divek_verl/cpu/prompt_ends.py).
PROMPT_ENDS = {
    "kv_connector": "PromptEnds",
    "kv_connector_module_path": "divek_verl.cpu.prompt_ends",
    "kv_role": "kv_both",
}
# Of an error at the start: its first words name the cause, and a configuration's goes on for pages.
LONGEST_SAID = 300


class VllmEngine:
    """Answers through vLLM's asynchronous engine, which batches all requests in flight.

    The n samples of a request share the prefill of its prompt and one encoding of its picture; with several copies of
    the model, all of them go to one copy. On GPUs the copies are vLLM's data parallelism. On a CPU each is an engine of
    its own: vLLM's copies keep no picture, so that its pixels would be sent n times.
    """

    def __init__(
        self, llms: Sequence[Any], prompts: PromptBuilder, options: EngineOptions, watchdog: subprocess.Popen[bytes]
    ) -> None:
        self.model = options.model
        self.llms = llms
        self._prompts = prompts
        self._slots = Slots(options.max_images_in_flight, options.timeout)
        self._copies = _copies(llms, options.data_parallel or 1)
        self._at_work = Counter(dict.fromkeys(range(len(self._copies)), 0))
        self._watchdog = watchdog

    @classmethod
    async def start(
        cls,
        options: EngineOptions,
        images: int = 1,
        more_arguments: Mapping[str, Any] | None = None,
        **llm_options: Any,
    ) -> "VllmEngine":
        """Load the model; ``more_arguments`` are vLLM's engine arguments, ``llm_options`` those of its ``AsyncLLM``.

        ``images``: how many it will be asked about, from which the number of copies follows where none is given.

        Raises:
            SetupError: there is no model in the folder, or vLLM does not start.
        """
        on_cpu = prepare_machine()
        copies = options.data_parallel or (copies_on_a_cpu(options, images) if on_cpu else 1)
        options = replace(options, data_parallel=copies)
        if on_cpu:
            share_cores(copies)
        _check_model(options.model)
        register_vllm_hooks()
        from transformers import AutoProcessor

        others = running_children()
        try:
            arguments = {**engine_arguments(options, on_cpu), **(more_arguments or {})}
            processor = AutoProcessor.from_pretrained(options.model)
            llms = _start_llms(arguments, copies if on_cpu else 1, llm_options)
        except Exception as error:
            raise SetupError(
                f"vLLM did not start with {options.model} ({_on_one_line(error)}): see its messages above, "
                "or give --model the folder of a model."
            ) from error
        # What is there now stays as long as the engine. To go through all of it again would take the garbage collector
        # more than half a second of a core each time, every few hundred images. vLLM's own server does the same.
        gc.freeze()
        return cls(llms, PromptBuilder(processor), options, start_watchdog(others))

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        """The samples of one request.

        Raises:
            SetupError: the engine died; nothing further can be asked.
        """
        return await self._slots.run(request, self._generate(request, sampling))

    async def close(self) -> None:
        """End vLLM's processes."""
        gc.unfreeze()
        _shut_down(self.llms)
        self._watchdog.communicate()

    async def _generate(self, request: Request, sampling: Sampling) -> Reply:
        try:
            prompt = await asyncio.get_running_loop().run_in_executor(None, self._prompts, request.messages)
        except UnreadableImage as error:
            return Reply(request.key, failure="unreadable_image", detail=str(error))
        copy = min(self._at_work, key=lambda rank: self._at_work[rank])
        self._at_work[copy] += 1
        try:
            # Text is needed once, at the end: decoding it token by token would cost more than all else here.
            parameters = sampling_parameters(request, sampling, detokenize=False)
            return await self._ask(request, prompt, parameters, copy)
        except Exception as error:
            return self._failure(request, prompt, error)
        finally:
            self._at_work[copy] -= 1

    async def _ask(self, request: Request, prompt: Prompt, parameters: Any, copy: int) -> Reply:
        # Given text, vLLM would send it through the processor once without and once with its picture.
        given: dict[str, Any] = {"prompt_token_ids": self._prompts.tokenize(prompt)}
        if prompt.images:
            given["multi_modal_data"] = {"image": prompt.images}
        llm, rank = self._copies[copy]
        async for output in llm.generate(given, parameters, request.key, data_parallel_rank=rank):
            last = output
        return self._reply(request, last)

    def _reply(self, request: Request, output: Any) -> Reply:
        tokens = [completion.token_ids for completion in output.outputs]
        tokenizer = self._prompts.processor.tokenizer
        return Reply(
            request.key,
            texts=tuple(tokenizer.batch_decode(tokens, skip_special_tokens=True)),
            truncated=sum(completion.finish_reason == "length" for completion in output.outputs),
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens,
            output_tokens=sum(map(len, tokens)),
        )

    def _failure(self, request: Request, prompt: Prompt, error: Exception) -> Reply:
        from vllm.v1.engine.exceptions import EngineDeadError

        cause = error if error.__cause__ is None else error.__cause__
        if isinstance(error, EngineDeadError) or isinstance(cause, EngineDeadError):
            raise SetupError(
                "vLLM's engine died: see its messages above; the same command goes on from here."
            ) from error
        reason = "overlong_prompt" if says_overlong(str(cause)) or self._is_overlong(prompt) else "engine_error"
        return Reply(request.key, failure=reason, detail=f"{type(cause).__name__}: {cause}")

    def _is_overlong(self, prompt: Prompt) -> bool:
        """vLLM's own message does not always say so, where a picture is part of the prompt."""
        inputs = self._prompts.processor(text=[prompt.text], images=prompt.images or None)
        return len(inputs["input_ids"][0]) >= self.llms[0].model_config.max_model_len


def _start_llms(arguments: Mapping[str, Any], count: int, llm_options: Mapping[str, Any]) -> list[Any]:
    """All of so many engines, or none: those that have started are ended where another one does not start."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    silent = "stat_loggers" not in llm_options
    # The context decides on batch sizes: those of offline use, not those of a server.
    engine = AsyncEngineArgs(**arguments, disable_log_stats=silent)
    configs = [engine.create_engine_config(UsageContext.LLM_CLASS) for _ in range(count)]
    start = functools.partial(AsyncLLM.from_vllm_config, disable_log_stats=silent, **llm_options)
    if count == 1:
        return [start(configs[0])]
    # Side by side, because each start waits for a process that imports torch and vLLM.
    with ThreadPoolExecutor(count) as pool:
        starts = [pool.submit(start, config) for config in configs]
        try:
            return [each.result() for each in starts]
        except BaseException:
            _shut_down([each.result() for each in as_completed(starts) if each.exception() is None])
            raise


def _shut_down(llms: Sequence[Any]) -> None:
    for llm in llms:
        llm.shutdown()


def _copies(llms: Sequence[Any], count: int) -> list[tuple[Any, int | None]]:
    """Each copy's engine, and its rank in there: an engine a copy, or all copies within one engine."""
    if len(llms) == count:
        return [(llm, None) for llm in llms]
    return [(llms[0], rank) for rank in range(count)]


def sampling_parameters(request: Request, sampling: Sampling, **more: Any) -> Any:
    """vLLM's parameters for all samples of a request; with ``vllm.LLM`` they give the same draws."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=request.count,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_new_tokens,
        seed=seed_of(sampling, request.key),
        output_kind=RequestOutputKind.FINAL_ONLY,
        **more,
    )


def engine_arguments(options: EngineOptions, on_cpu: bool) -> dict[str, Any]:
    """vLLM's engine arguments for our options; with ``vllm.LLM`` they give the same engine."""
    arguments: dict[str, Any] = {
        "model": options.model,
        "tensor_parallel_size": options.tensor_parallel,
        "data_parallel_size": 1 if on_cpu else options.data_parallel or 1,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "enable_prefix_caching": True,
        "enforce_eager": on_cpu if options.compile is None else not options.compile,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
    }
    if on_cpu:
        return {**arguments, **_cpu_arguments(options)}
    return {**arguments, "gpu_memory_utilization": options.gpu_memory_utilization}


def _cpu_arguments(options: EngineOptions) -> dict[str, Any]:
    from divek_verl.cpu.executor import executor
    from divek_verl.cpu.vllm_plugin import is_known_vllm

    length = options.max_model_len or min(CPU_MODEL_LEN, _own_length(options.model))
    return {
        "distributed_executor_backend": executor(options.tensor_parallel),
        "dtype": "float32" if options.dtype == "auto" else options.dtype,
        "block_size": CPU_BLOCK_SIZE,
        # A prompt that is prefilled in two steps takes back a random number of its seeded generator, which CPU
        # generators cannot: vLLM 0.28 dies of it. So no prompt is split, and a step holds the longest one.
        "enable_chunked_prefill": False,
        "kv_transfer_config": PROMPT_ENDS if is_known_vllm() else None,
        "max_model_len": length,
        "max_num_batched_tokens": max(CPU_MODEL_LEN, length),
    }


def _on_one_line(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if len(said) <= LONGEST_SAID else f"{said[:LONGEST_SAID]}..."


def _own_length(model: str) -> int:
    from transformers import AutoConfig

    return int(getattr(AutoConfig.from_pretrained(model).get_text_config(), "max_position_embeddings", CPU_MODEL_LEN))


def _check_model(model: str) -> None:
    """A folder has to hold a model; what is no folder is a name on a model hub."""
    folder = Path(model)
    looks_like_path = model.startswith((os.sep, ".", "~")) or model.count("/") > 1
    if (folder.exists() or looks_like_path) and not (folder / "config.json").is_file():
        raise SetupError(f"--model {model} holds no config.json: give the folder of a model in Hugging Face's format.")
