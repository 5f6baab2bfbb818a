"""What a run mines its votes with, and whether votes from a file would be the same."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.settings import Settings, read_settings
from divek_verl.votes_file import Origin, model_name, origin_of, read_votes_file

# The settings that change what K answers are drawn; the same names stand in the first line of a votes file.
SAMPLING = ("num_samples", "temperature", "top_p", "top_k", "repetition_penalty", "max_pixels", "min_pixels")


def sampling_of(settings: Settings, response_length: int) -> dict[str, Any]:
    """How the K answers are drawn, as a votes file records it."""
    limit = settings.max_new_tokens or response_length
    return {**{name: getattr(settings, name) for name in SAMPLING}, "max_new_tokens": limit}


def votes_origin(config: Any) -> Origin:
    """The origin of the votes that a run with verl's configuration ``config`` mines."""
    sampling = sampling_of(read_settings(config.divek), int(config.data.max_response_length))
    files = config.data.train_files
    named = [files] if isinstance(files, str) else list(files)
    return origin_of(model_name(config.actor_rollout_ref.model.path), sampling, list(class_lists(named)))


def class_lists(files: Sequence[str]) -> Iterator[tuple[str, ClassNames]]:
    """(data source, its classes) of the DiVE-k rows of parquet files on this machine."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from divek_verl.class_lists import classes_of
    from divek_verl.prompts import is_divek

    for file in map(Path, files):
        if file.suffix != ".parquet" or not file.expanduser().is_file():
            continue
        path = file.expanduser().resolve()
        sources = pc.unique(pq.read_table(path, columns=["data_source"])["data_source"]).to_pylist()
        for source in sources:
            if is_divek(source):
                yield source, classes_of(str(path.parent), source)


def check_votes_file(config: Any, settings: Settings) -> None:
    """Raise SetupError where ``divek.votes_file`` cannot be read or was mined with other settings than this run's."""
    if settings.votes_file is None:
        return
    file = read_votes_file(Path(settings.votes_file).expanduser())
    differences = file.origin.differences(votes_origin(config))
    if not differences:
        return
    told = f"The votes in {settings.votes_file} are of {'; '.join(differences)}"
    if not settings.allow_votes_mismatch:
        raise SetupError(f"{told}: mine them again, or set divek.allow_votes_mismatch=true to use them all the same.")
    print(f"divek_verl: {told}; used all the same (divek.allow_votes_mismatch=true)")
