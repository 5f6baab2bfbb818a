"""``divek mine``: K answers of a model to the open question about every image, kept as votes."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from divek_verl.console import STOPPED
from divek_verl.engines import open_engine
from divek_verl.engines.base import Engine, Reply, Request, for_each
from divek_verl.engines.checkpoints import with_model_folder
from divek_verl.engines.options import EngineOptions, SamplingOptions, with_options
from divek_verl.engines.rows import Key, PreparedRows, files_of, read_rows
from divek_verl.errors import SetupError
from divek_verl.files import write_lines
from divek_verl.labels import ClassNames
from divek_verl.progress import progress
from divek_verl.records import FailureReason
from divek_verl.votes import MinedVotes, count_votes
from divek_verl.votes_file import VotesLog, model_name, origin_of

NAMED_IMAGES = 5
MOSTLY_UNKNOWN = (
    "warning: more than half of the samples name no class of the list, so most options are fillers: look at what the "
    "model answers, and give other spellings of a class as aliases in classes.json"
)
# tqdm's own format shows a rate below one as seconds per image.
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {rate_noinv_fmt}{postfix}]"


@dataclass(frozen=True)
class Failure:
    data_source: str
    image_id: str
    reason: str
    detail: str | None = None


@dataclass
class Summary:
    """The result of a run. ``before``: images that had votes already. ``surplus``: samples beyond those asked for."""

    before: int = 0
    mined: int = 0
    seconds: float = 0.0
    surplus: int = 0
    failures: list[Failure] = field(default_factory=list)


def votes_of(key: Key, reply: Reply, count: int, classes: ClassNames) -> MinedVotes:
    """The votes on one image; missing samples out of ``count`` are unanswered, as in training."""
    missing = count - len(reply.texts)
    votes = count_votes([*reply.texts, *("" for _ in range(missing))], classes)
    return MinedVotes(*key, votes=votes, truncated=reply.truncated, failed=missing, open_tokens=reply.prompt_tokens)


async def mine(
    rows: PreparedRows,
    engine: Engine,
    log: VotesLog,
    options: SamplingOptions,
    in_flight: int,
    on_image: Callable[[], object] = lambda: None,
) -> Summary:
    """Mine every row whose votes the log lacks; ``on_image`` is called after each. An error keeps the votes so far."""
    left = [key for key in rows.keys if key not in log.done]
    summary = Summary(before=len(rows) - len(left))
    sampling = options.sampling()

    async def mine_one(key: Key) -> None:
        row = rows[key]
        reply = await engine.generate(Request("/".join(key), row.messages, options.samples), sampling)
        if reply.texts:
            log.add(votes_of(key, reply, options.samples, rows.classes[key[0]]))
            summary.mined += 1
            summary.surplus += reply.surplus
        else:
            summary.failures.append(Failure(*key, reply.failure or FailureReason.NO_COMPLETION, reply.detail))
        on_image()

    started = time.monotonic()
    await for_each(left, mine_one, min(in_flight, max(1, len(left))))
    summary.seconds = time.monotonic() - started
    return summary


def describe(summary: Summary, votes: Sequence[MinedVotes]) -> list[str]:
    """The lines printed at the end; failures are counted by their reason."""
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
        if parts["no class of the list"] > samples / 2:
            lines.append(MOSTLY_UNKNOWN)
        shares = ", ".join(f"{100 * count / samples:.1f} % {name}" for name, count in parts.items())
        lines.append(f"{samples} samples of {len(votes)} images: {shares}")
    if summary.surplus:
        lines.append(f"dropped {summary.surplus} samples: {FailureReason.MORE_THAN_ASKED}")
    for reason, count in Counter(failure.reason for failure in summary.failures).most_common():
        images = [failure.image_id for failure in summary.failures if failure.reason == reason][:NAMED_IMAGES]
        more = ", ..." if count > len(images) else ""
        lines.append(f"no votes for {count} images: {reason} ({', '.join(images)}{more})")
    return lines


@with_options
def main(
    data: Annotated[
        list[Path], typer.Option(help="Parquet file of a prepared set, or its folder: train.parquet; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Votes file; a run that was stopped continues it.")],
    engine: EngineOptions,
    sampling: SamplingOptions,
    limit: Annotated[int | None, typer.Option(min=1, help="Mine only the first N rows of each file.")] = None,
) -> None:
    """Sample K answers to the open question about each image and keep the votes, for divek.votes_file."""
    # All input before the engine's packages, which take many seconds to import.
    files = files_of(data, "train.parquet")
    rows = read_rows(files, min_pixels=sampling.min_pixels, max_pixels=sampling.max_pixels, limit=limit)
    loaded = with_model_folder(engine)
    sampled = {**sampling.as_training().sampling(sampling.max_new_tokens), "seed": sampling.seed}
    log = VotesLog(out, origin_of(model_name(engine.model), sampled, sorted(rows.classes.items())))
    done = sum(key in log.done for key in rows.keys)

    async def mine_the_rest() -> Summary:
        if done == len(rows):
            return Summary(before=done)
        shown = {"desc": "mining", "bar_format": BAR, "unit": " images", "smoothing": 0.05}
        async with open_engine(loaded) as opened:
            with progress(total=len(rows), initial=done, **shown) as bar:
                return await mine(rows, opened, log, sampling, engine.max_images_in_flight, bar.update)

    try:
        summary = asyncio.run(mine_the_rest())
        log.close(rows.keys)
    except KeyboardInterrupt:
        print("stopped; the same command continues where this one stopped")
        raise typer.Exit(STOPPED) from None
    finally:
        log.close()
    failures = out.with_name(f"{out.name}.failures.jsonl")
    if summary.failures:
        write_lines(failures, map(asdict, summary.failures))
    else:
        failures.unlink(missing_ok=True)
    for line in describe(summary, [log.done[key] for key in rows.keys if key in log.done]):
        print(line)
    print(f"votes: {out}" + (f"; images without votes: {failures}" if summary.failures else ""))
    if summary.failures and not log.done:
        raise SetupError(f"No image could be mined ({summary.failures[0].reason}): see {failures}.")
