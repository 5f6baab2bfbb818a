"""``divek mine``: K answers of a model to the open question about every image, kept as votes."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from divek_verl.cpu.machine import prepare_machine
from divek_verl.engines import open_engine
from divek_verl.engines.base import Engine, Reply, Request, Sampling, for_each
from divek_verl.engines.options import EngineOptions, SamplingOptions, with_options
from divek_verl.engines.rows import Key, PreparedRows, read_rows
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.progress import progress
from divek_verl.votes import MinedVotes, count_votes
from divek_verl.votes_file import Origin, VotesLog, model_name, origin_of

NAMED_IMAGES = 5
# tqdm's own format turns a rate below one around, into seconds an image.
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {rate_noinv_fmt}{postfix}]"


@dataclass(frozen=True)
class Failure:
    """An image without votes, and why."""

    data_source: str
    image_id: str
    reason: str
    detail: str | None = None


@dataclass
class Summary:
    """What a run brought. ``before``: images whose votes were there already."""

    before: int = 0
    mined: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


def votes_of(key: Key, reply: Reply, count: int, classes: ClassNames) -> MinedVotes:
    """The votes of one image; of ``count`` samples, those that did not come are unanswered, as in training."""
    missing = count - len(reply.texts)
    votes = count_votes([*reply.texts, *("" for _ in range(missing))], classes)
    return MinedVotes(*key, votes=votes, truncated=reply.truncated, failed=missing, open_tokens=reply.prompt_tokens)


async def mine(
    rows: PreparedRows, engine: Engine, log: VotesLog, options: SamplingOptions, in_flight: int, note: Any = None
) -> Summary:
    """Mine every row whose votes the log lacks; ``note`` is called after each image.

    Raises:
        SetupError: the engine cannot go on; what is mined stays mined.
    """
    left = [key for key in rows.keys if key not in log.done]
    summary = Summary(before=len(rows) - len(left))
    sampling: Sampling = options.sampling()

    async def mine_one(key: Key) -> None:
        row = rows[key]
        reply = await engine.generate(Request("/".join(key), row.messages, options.samples), sampling)
        if reply.texts:
            log.add(votes_of(key, reply, options.samples, row.classes))
            summary.mined += 1
        else:
            summary.failures.append(Failure(*key, reply.failure or "no_completion", reply.detail))
        if note is not None:
            note()

    started = time.monotonic()
    await for_each(left, mine_one, min(in_flight, max(1, len(left))))
    summary.seconds = time.monotonic() - started
    return summary


def write_failures(out: Path, failures: Sequence[Failure]) -> Path:
    """A line an image without votes, beside the votes; no file where there is none."""
    path = out.with_name(f"{out.name}.failures.jsonl")
    if not failures:
        path.unlink(missing_ok=True)
        return path
    aside = path.with_name(f".{path.name}.part")
    lines = [json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures]
    aside.write_text("".join(lines), encoding="utf-8")
    os.replace(aside, path)
    return path


def describe(summary: Summary, votes: Sequence[MinedVotes]) -> list[str]:
    """What is said at the end, a line each; every failure is counted under its reason."""
    rate = f" ({summary.mined / summary.seconds:.2f} images/s)" if summary.mined else ""
    lines = [f"mined {summary.mined} images in {summary.seconds:.1f} s{rate}; {summary.before} were mined before"]
    samples = sum(mined.votes.total for mined in votes)
    if samples:
        parts = {
            "unanswered": sum(mined.votes.unanswered for mined in votes),
            "no class of the list": sum(sum(mined.votes.unknown.values()) for mined in votes),
            "cut at the token limit": sum(mined.truncated for mined in votes),
            "failed": sum(mined.failed for mined in votes),
        }
        shares = ", ".join(f"{100 * count / samples:.1f} % {name}" for name, count in parts.items())
        lines.append(f"{samples} samples of {len(votes)} images: {shares}")
    for reason, count in Counter(failure.reason for failure in summary.failures).most_common():
        images = [failure.image_id for failure in summary.failures if failure.reason == reason][:NAMED_IMAGES]
        more = ", ..." if count > len(images) else ""
        lines.append(f"no votes for {count} images: {reason} ({', '.join(images)}{more})")
    return lines


def _origin(engine: EngineOptions, options: SamplingOptions, rows: PreparedRows) -> Origin:
    sampling = {**options.as_training().sampling(options.max_new_tokens), "seed": options.seed}
    return origin_of(model_name(engine.model), sampling, sorted(rows.classes.items()))


async def _mine_with_progress(
    rows: PreparedRows, log: VotesLog, engine_options: EngineOptions, sampling: SamplingOptions
) -> Summary:
    done = sum(key in log.done for key in rows.keys)
    if done == len(rows):
        return Summary(before=done)
    async with open_engine(engine_options) as engine:
        with progress(
            total=len(rows), initial=done, desc="mining", bar_format=BAR, unit=" images", smoothing=0.05
        ) as bar:
            in_flight = engine_options.max_images_in_flight
            return await mine(rows, engine, log, sampling, in_flight, bar.update)


@with_options
def main(
    data: Annotated[list[Path], typer.Option(help="Parquet file of prepared data; repeatable.")],
    out: Annotated[Path, typer.Option(help="Votes file; a run that was stopped goes on with it.")],
    engine: EngineOptions,
    sampling: SamplingOptions,
    limit: Annotated[int | None, typer.Option(min=1, help="Mine the first so many rows only.")] = None,
) -> None:
    """Sample K answers to the open question about each image and keep the votes, for divek.votes_file."""
    prepare_machine()
    rows = read_rows(data, min_pixels=sampling.min_pixels, max_pixels=sampling.max_pixels, limit=limit)
    log = VotesLog(out, _origin(engine, sampling, rows))
    try:
        summary = asyncio.run(_mine_with_progress(rows, log, engine, sampling))
        log.close(rows.keys)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one stopped")
        raise typer.Exit(130) from None
    finally:
        log.close()
    failures = write_failures(out, summary.failures)
    for line in describe(summary, [log.done[key] for key in rows.keys if key in log.done]):
        print(line)
    print(f"votes: {out}" + (f"; images without votes: {failures}" if summary.failures else ""))
    if summary.failures and not log.done:
        raise SetupError(f"No image could be mined ({summary.failures[0].reason}): see {failures}.")
