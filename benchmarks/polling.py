"""What does it cost the trainer to ask TransferQueue for finished rollouts (divek.poll_interval)?

    python benchmarks/polling.py --prompts 6000

starts Ray and a real TransferQueue with so many prompts, and as many trajectories again, as in the middle of a large
validation. Prints the seconds of one poll, and how much longer a message to the queue takes while another thread polls
without a pause.
"""

import json
import statistics
import threading
import time
from pathlib import Path
from typing import Annotated

import ray
import transfer_queue as tq
import typer
from omegaconf import OmegaConf

RESULTS = Path(__file__).resolve().parent / "results" / "polling.json"
POLLS = 15


def message() -> float:
    """Seconds for the status of one prompt."""
    started = time.perf_counter()
    tq.kv_batch_put(keys=["p0"], partition_id="val", tags=[{"is_prompt": True, "global_steps": 1, "status": "running"}])
    return time.perf_counter() - started


def main(prompts: Annotated[list[int], typer.Option(help="Prompts in flight; repeatable.")] = [600, 6000]) -> None:  # noqa: B006
    """One queue for each number."""
    found = []
    for count in prompts:
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
        tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
        tag = {"global_steps": 1, "status": "pending", "is_prompt": True}
        tq.kv_batch_put(keys=[f"p{i}" for i in range(count)], partition_id="val", tags=[tag] * count)
        done = {"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1, "seq_len": 900}
        tq.kv_batch_put(keys=[f"p{i}_0_0" for i in range(count)], partition_id="val", tags=[done] * count)
        seconds = []
        for _ in range(POLLS):
            started = time.perf_counter()
            data = tq.kv_list()
            seconds.append(time.perf_counter() - started)
        assert len(data["val"]) == 2 * count
        quiet = statistics.median(message() for _ in range(POLLS))
        stop = threading.Event()

        def poll(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                tq.kv_list()

        thread = threading.Thread(target=poll)
        thread.start()
        busy = statistics.median(message() for _ in range(POLLS))
        stop.set()
        thread.join()
        found.append({"prompts": count, "poll": statistics.median(seconds), "message": quiet, "message_busy": busy})
        print(
            f"{count} prompts: a poll takes {1000 * found[-1]['poll']:.0f} ms; a message {1000 * quiet:.1f} ms, "
            f"{busy / quiet:.1f} times as long during polls without a pause"
        )
        tq.close()
        ray.shutdown()
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
