"""How often does one image go through the Hugging Face processor, and what does that cost the agent-loop worker?

    python benchmarks/processor.py

sends photographs of 401,408 pixels through verl's own worker with stand-ins for vLLM, Ray and TransferQueue (those of
the tests), K = 20 answers and 8 rollouts: as divek_verl has it, and with verl's own agent loop for the rollouts. The
image processor is Qwen2.5-VL's, the tokenizer the demo's. Both take turns; prints calls and processor seconds an image.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

import numpy as np
import typer
import verl  # noqa: F401  (loads the plugin)
from hydra import compose, initialize_config_module
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from trainer.worker_fakes import FakeQueue, answer, make_worker  # type: ignore[import-not-found]

from divek_verl import prompts
from divek_verl.demo.model import build_config, build_processor, build_tokenizer
from divek_verl.trainer import rollout
from divek_verl.trainer.shared_inputs import OUR_LOOP, VERLS_LOOP, SharedInputs

NAMES = tuple(f"bird {number}" for number in range(100))
RESULTS = Path(__file__).resolve().parent / "results" / "processor.json"
PARAMETERS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
SOURCE = "divek/birds/base"


class NothingShared(SharedInputs):
    """verl's way: every rollout computes its own."""

    async def prepare(self, *args: object) -> None:
        pass


def make_processor() -> Any:
    from transformers.models.qwen2_5_vl import Qwen2_5_VLModel

    tokenizer = build_tokenizer([prompts.open_question(prompts.Wording(), NAMES)], NAMES)
    built = build_processor(tokenizer)
    built.config = build_config(tokenizer)
    for name in ("get_rope_index", "get_vision_position_ids"):
        setattr(built, name, MethodType(getattr(Qwen2_5_VLModel, name), built))
    return built


def write_set(folder: Path, images: int) -> list[dict[str, Any]]:
    """Rows as verl hands them to a worker."""
    (folder / "classes.json").write_text(json.dumps({"base": NAMES}))
    rng, rows = np.random.default_rng(0), []
    for number in range(images):
        small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        path = folder / f"{number}.jpg"
        small.resize((1024, 768), Image.Resampling.BICUBIC).save(path)
        picture = {"type": "image", "image": str(path), "min_pixels": 3136, "max_pixels": 401408}
        text = {"type": "text", "text": prompts.open_question(prompts.Wording(), NAMES)}
        rows.append(
            {
                "uid": f"u{number}",
                "agent_name": VERLS_LOOP,
                "data_source": SOURCE,
                "raw_prompt": [{"role": "user", "content": [picture, text]}],
                "reward_model": {"style": "rule", "ground_truth": NAMES[0]},
                "extra_info": {"index": number, "split": "train", "image_id": str(number), "dataset": "birds"},
                "index": number,
                "image_root": str(folder),
                "global_steps": 1,
            }
        )
    return rows


def main(
    images: Annotated[int, typer.Option(min=2)] = 12,
    rollouts: Annotated[int, typer.Option(min=1)] = 8,
    samples: Annotated[int, typer.Option(min=2)] = 20,
) -> None:
    """Both ways, image by image."""
    import transfer_queue

    queue = FakeQueue()
    transfer_queue.async_kv_put, transfer_queue.async_kv_batch_put = queue.put, queue.put_batch
    processor, calls = make_processor(), 0
    whole = type(processor).__call__

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += bool(kwargs.get("images"))
        return whole(self, *args, **kwargs)

    type(processor).__call__ = count
    lengths = ("data.max_prompt_length=4096", "data.max_response_length=64")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("divek_cpu", overrides=[*lengths, f"actor_rollout_ref.rollout.n={rollouts}"])
    found: dict[str, list[tuple[int, float]]] = {"divek_verl": [], "verl's own": []}

    async def visits(rows: list[dict[str, Any]]) -> None:
        nonlocal calls
        worker = make_worker(config, processor, answers=[answer("bird 0"), answer("bird 7")], num_samples=samples)
        trajectory = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False}
        for number, row in enumerate(rows):
            for way in found:
                ours = way == "divek_verl"
                rollout.OUR_LOOP = OUR_LOOP if ours else VERLS_LOOP
                rollout.SharedInputs = SharedInputs if ours else NothingShared
                calls, started = 0, time.process_time()
                await worker._run_prompt(dict(row), dict(PARAMETERS), trajectory)
                if number:  # the first open question is compared with verl's
                    found[way].append((calls, time.process_time() - started))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(visits(write_set(Path(folder), images)))
    summary = {
        way: {"calls": max(calls for calls, _ in runs), "cpu_seconds": statistics.median(s for _, s in runs)}
        for way, runs in found.items()
    }
    for way, numbers in summary.items():
        print(f"{way:12s} {numbers['calls']:3d} calls, {numbers['cpu_seconds']:.3f} s of processor time an image")
    ratio = summary["verl's own"]["cpu_seconds"] / summary["divek_verl"]["cpu_seconds"]
    print(f"{ratio:.1f} times less processor time")
    asked = {"images": images, "rollouts": rollouts, "samples": samples, "pixels": 401408}
    RESULTS.write_text(json.dumps({**asked, "ways": summary, "ratio": ratio}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
