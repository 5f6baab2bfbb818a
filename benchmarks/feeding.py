"""How many images a second can one `divek mine` process feed to servers?

    python benchmarks/feeding.py

A stub server on this machine answers at once with K completions, so that the client's own work is what is measured:
reading and sizing JPEG pictures of 1024x768 to at most 401,408 pixels, encoding and sending them, parsing the replies
and counting votes. Prints images a second and CPU time of the client for an image. 16 GPUs of a 7B model answer about
16 images a second; C cores for the client feed at most C / (CPU seconds for an image).
"""

import asyncio
import json
import multiprocessing
import os
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from divek_verl.commands.mine import mine
from divek_verl.engines import open_engine
from divek_verl.engines.options import Backend, EngineOptions, SamplingOptions
from divek_verl.engines.rows import read_rows
from divek_verl.prepare import Classes, Example, Split, write_set
from divek_verl.votes_file import Origin, VotesLog

NEEDED = 16.0
NAMES = tuple(f"bird {number}" for number in range(100))
PICTURES = 16


def completion(samples: int) -> bytes:
    """A reply with ``samples`` choices of about 800 characters."""
    text = f"<think>{'The wings are dark and the bill is short. ' * 18}</think><answer>{NAMES[7]}</answer>"
    message = {"role": "assistant", "content": text}
    choices = [{"index": index, "finish_reason": "stop", "message": message} for index in range(samples)]
    usage = {"prompt_tokens": 900, "completion_tokens": 200 * samples, "total_tokens": 0}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}
    ).encode()


def serve(ready: Connection, samples: int) -> None:
    """Answer every request with the same completion, and send the port through ``ready``."""
    body = completion(samples)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).lower()
                _, _, length = request.partition(b"content-length:")
                await reader.readexactly(int(length.split(b"\r\n")[0] or 0))
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**22)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def paint(folder: Path, images: int) -> Path:
    """A prepared set of ``images`` rows over a few pictures with the detail of a photograph."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(PICTURES):
        smooth = Image.fromarray(random.integers(0, 256, (96, 128, 3), dtype=np.uint8)).resize((1024, 768))
        noisy = np.asarray(smooth, dtype=np.int16) + random.integers(-6, 7, (768, 1024, 3), dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"images/{index}.jpg", quality=92)
    for index in range(PICTURES, images):
        os.link(folder / f"images/{index % PICTURES}.jpg", folder / f"images/{index}.jpg")
    examples = [Example(f"images/{index}.jpg", NAMES[index % 50], str(index)) for index in range(images)]
    write_set(folder, "birds", Classes(NAMES), [Split("train", "base", examples)])
    return folder / "train.parquet"


def main(
    images: int = typer.Option(200, min=PICTURES, help="Images to mine."),
    samples: int = typer.Option(20, help="K, completions in each reply."),
    in_flight: int = typer.Option(64, help="Images at one time."),
) -> None:
    """Print images a second and CPU seconds for an image; exit status 1 below 16 images a second."""
    mine_one, ready = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(ready, samples), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows([paint(Path(folder) / "data", images)], min_pixels=3136, max_pixels=401408)
        url = f"http://127.0.0.1:{mine_one.recv()}/v1"
        options = EngineOptions("m", Backend.OPENAI, base_url=url, max_images_in_flight=in_flight)

        async def run() -> tuple[float, float]:
            async with open_engine(options) as engine:
                log = VotesLog(Path(folder) / "votes.jsonl", Origin("m"))
                before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                summary = await mine(rows, engine, log, SamplingOptions(samples=samples), in_flight)
                seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
                assert summary.mined == images, summary.failures[:3]
                return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        seconds, cpu = asyncio.run(run())
    server.kill()
    cores = len(os.sched_getaffinity(0))
    print(f"{images / seconds:.1f} images/s on {cores} cores; {1000 * cpu / images:.1f} ms of CPU for an image")
    raise typer.Exit(int(images / seconds < NEEDED))


if __name__ == "__main__":
    typer.run(main)
