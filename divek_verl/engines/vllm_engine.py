"""A model loaded in this process by vLLM: one request for each image, whose samples share one prefill."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from divek_verl.compat import register_vllm_hooks
from divek_verl.cpu.machine import prepare_machine, share_cores
from divek_verl.engines.base import Reply, Request, Sampling, Slots, says_overlong, seed_of
from divek_verl.engines.client import said
from divek_verl.engines.options import EngineOptions
from divek_verl.engines.pictures import PromptBuilder
from divek_verl.engines.watchdog import redirected, start_watchdog, starting
from divek_verl.errors import SetupError
from divek_verl.records import FailureReason

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

# vLLM's default on a CPU, 128, is longer than a small prompt: no block of it would ever be shared.
CPU_BLOCK_SIZE = 16
# Used without --max-model-len; a model's own length can need more memory than there is.
CPU_MODEL_LEN = 4096
# The model in its scheduler's process, as on one GPU. vLLM turns the short name, "uni", into "mp" on a CPU
# (vllm/platforms/cpu.py), where a process that only waits for the model keeps a core busy (vLLM #34670).
CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class VllmEngine:
    """Answers through vLLM's asynchronous engine, which batches all requests in flight.

    The n samples of a request share the prefill of its prompt and one encoding of its picture; with several copies of
    the model (vLLM's data parallelism), all of them go to one copy.
    """

    def __init__(
        self,
        llm: "AsyncLLM",
        prompts: PromptBuilder,
        options: EngineOptions,
        watchdog: subprocess.Popen[bytes],
        messages: str,
    ) -> None:
        self.model = options.model
        self._messages = messages
        self.llm = llm
        self._prompts = prompts
        self._slots = Slots(options.max_images_in_flight, options.timeout)
        # The number of requests at work in each copy.
        self._at_work = [0] * options.data_parallel
        self._watchdog = watchdog

    @classmethod
    async def start(
        cls, options: EngineOptions, more_arguments: Mapping[str, object] | None = None, **llm_options: object
    ) -> "VllmEngine":
        """Load the model; ``more_arguments`` are vLLM's engine arguments, ``llm_options`` those of its ``AsyncLLM``.

        Raises:
            SetupError: vLLM does not start.
        """
        on_cpu = prepare_machine()
        if on_cpu:
            share_cores(options.data_parallel)
        silent = "stat_loggers" not in llm_options
        with starting() as others, _messages(options.verbose) as messages:
            try:
                register_vllm_hooks()
                from transformers import AutoProcessor
                from vllm import AsyncEngineArgs
                from vllm.usage.usage_lib import UsageContext
                from vllm.v1.engine.async_llm import AsyncLLM

                arguments = {**engine_arguments(options, on_cpu), **(more_arguments or {})}
                prompts = PromptBuilder(AutoProcessor.from_pretrained(options.model))
                # The context decides on batch sizes: those of offline use, not those of a server.
                config = AsyncEngineArgs(**arguments, disable_log_stats=silent).create_engine_config(
                    UsageContext.LLM_CLASS
                )
                llm = AsyncLLM.from_vllm_config(config, disable_log_stats=silent, **llm_options)
            except Exception as error:
                raise SetupError(
                    f"vLLM did not start with {options.model} ({said(error)}): see {messages}, "
                    "or give --model the folder of a model."
                ) from error
        return cls(llm, prompts, options, start_watchdog(others), messages)

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        """The samples of one request; a SetupError if the engine died, so that nothing further can be asked."""
        return await self._slots.run(request, self._generate(request, sampling))

    async def close(self) -> None:
        self.llm.shutdown()
        self._watchdog.communicate()

    async def _generate(self, request: Request, sampling: Sampling) -> Reply:
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = await asyncio.to_thread(self._prompts, request.messages)
        # Given text, vLLM would send it through the processor once without and once with its picture.
        given: dict[str, object] = {"prompt_token_ids": self._prompts.tokenize(prompt)}
        if prompt.images:
            given["multi_modal_data"] = {"image": prompt.images}
        # Text is needed once, at the end: decoding it token by token would take longer than all else here.
        parameters = sampling_parameters(request, sampling, detokenize=False)
        copy = self._at_work.index(min(self._at_work))
        rank = copy if len(self._at_work) > 1 else None
        self._at_work[copy] += 1
        try:
            async for output in self.llm.generate(given, parameters, request.key, data_parallel_rank=rank):
                last = output
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(error, EngineDeadError) or isinstance(cause, EngineDeadError):
                raise SetupError(f"vLLM's engine died: see {self._messages}; the same command continues.") from error
            overlong = says_overlong(str(cause))
            if not overlong:
                # vLLM's message does not always say so for a prompt with a picture.
                inputs = self._prompts.processor(text=[prompt.text], images=prompt.images or None)
                overlong = len(inputs["input_ids"][0]) >= self.llm.model_config.max_model_len
            reason = FailureReason.OVERLONG_PROMPT if overlong else FailureReason.ENGINE_ERROR
            return Reply(request.key, failure=reason, detail=said(f"{type(cause).__name__}: {cause}"))
        finally:
            self._at_work[copy] -= 1
        tokens = [completion.token_ids for completion in last.outputs]
        return Reply(
            request.key,
            texts=tuple(self._prompts.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)),
            truncated=sum(completion.finish_reason == "length" for completion in last.outputs),
            prompt_tokens=len(last.prompt_token_ids),
            cached_tokens=last.num_cached_tokens,
            output_tokens=sum(map(len, tokens)),
        )


@contextmanager
def _messages(shown: bool) -> Iterator[str]:
    """Send the engine's messages to a new file unless they are ``shown``; yields how an error names the place."""
    if shown:
        yield "its messages above"
        return
    with tempfile.NamedTemporaryFile("w", prefix="divek-engine-", suffix=".log", delete=False) as file:
        print(f"starting vLLM, 1 to 2 minutes the first time; its messages: {file.name}", file=sys.stderr, flush=True)
        with redirected(file.fileno(), 1, 2):
            yield file.name


def sampling_parameters(request: Request, sampling: Sampling, **more: object) -> "SamplingParams":
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


def engine_arguments(options: EngineOptions, on_cpu: bool) -> dict[str, object]:
    """vLLM's engine arguments for these options; with ``vllm.LLM`` they give the same engine."""
    arguments: dict[str, object] = {
        "model": options.model,
        "tensor_parallel_size": options.tensor_parallel,
        "data_parallel_size": options.data_parallel,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "enable_prefix_caching": True,
        "enforce_eager": on_cpu if options.compile is None else not options.compile,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
    }
    if not on_cpu:
        return {**arguments, "gpu_memory_utilization": options.gpu_memory_utilization}
    length = options.max_model_len
    if length is None:
        from transformers import AutoConfig

        text = AutoConfig.from_pretrained(options.model).get_text_config()
        length = min(CPU_MODEL_LEN, int(getattr(text, "max_position_embeddings", CPU_MODEL_LEN)))
    return {
        **arguments,
        "distributed_executor_backend": "mp" if options.tensor_parallel > 1 else CPU_EXECUTOR,
        "dtype": "float32" if options.dtype == "auto" else options.dtype,
        "block_size": CPU_BLOCK_SIZE,
        # A prompt that is prefilled in two steps takes back a random number of its seeded generator, which CPU
        # generators cannot do: vLLM 0.28 dies of it. So no prompt is split, and a step holds the longest one.
        "enable_chunked_prefill": False,
        "max_model_len": length,
        "max_num_batched_tokens": max(CPU_MODEL_LEN, length),
    }
