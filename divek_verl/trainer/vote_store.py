"""Votes with their age: one store a run, shared by all agent-loop workers, saved and restored with checkpoints.

The age of votes is counted in versions of the policy: one a training step in every mode of verl's trainer.
"""

from pathlib import Path
from typing import Any

import ray

from divek_verl.errors import SetupError
from divek_verl.votes_file import MinedVotes, Origin, VotesFile, read_votes_file, write_votes_file

STORE_NAME = "divek_vote_store"
# In the folder of a checkpoint, beside the actor's.
CHECKPOINT_FILE = "divek_votes.jsonl"
STORE_TIMEOUT = 600


class VoteStore:
    """The votes of a run by data source and image id; a Ray actor holds it.

    Args:
        max_age: versions of the policy that votes may be old; None for any age. Where it is 0, nothing is reused:
            every visit mines.
    """

    def __init__(self, max_age: int | None) -> None:
        self.max_age = max_age
        self._version = 0
        self._votes: dict[tuple[str, str], MinedVotes] = {}

    def announce(self, version: int) -> None:
        """The trainer has come to this version of the policy; an older one is no news."""
        self._version = max(self._version, version)

    def look_up(self, data_source: str, image_id: str, version: int) -> tuple[MinedVotes, int] | None:
        """The votes on an image with their age, where they are young enough for a visit at ``version`` or later."""
        found = self._votes.get((data_source, image_id))
        if found is None or self.max_age == 0:
            return None
        age = max(0, max(self._version, version) - (found.policy_version or 0))
        return (found, age) if self.max_age is None or age <= self.max_age else None

    def put(self, *mined: MinedVotes) -> None:
        """Keep votes in the place of older ones; those with failed requests are used once and not kept."""
        self._votes |= {each.key: each for each in mined if each.failed == 0}

    def votes(self) -> list[MinedVotes]:
        """All votes, to be saved."""
        return list(self._votes.values())


def start_store(max_age: int | None) -> Any:
    """The handle of this job's store; the first caller starts it. It takes no CPU slot of Ray's."""
    options = {"name": STORE_NAME, "get_if_exists": True, "num_cpus": 0, "max_concurrency": 1}
    return ray.remote(VoteStore).options(**options).remote(max_age)


def existing_store() -> Any | None:
    """The handle of the store; None in a run that reuses no votes."""
    try:
        return ray.get_actor(STORE_NAME)
    except ValueError:
        return None


def save_votes(store: Any, path: Path, origin: Origin) -> int:
    """Write the store's votes, aside and renamed, on the machine that calls; returns their count."""
    return write_votes_file(path, origin, ray.get(store.votes.remote(), timeout=STORE_TIMEOUT))


def fill_store(store: Any, file: VotesFile, path: Path) -> str:
    """Hand a file's votes to the store; returns what happened in one sentence, for the log."""
    ray.get(store.put.remote(*file.votes), timeout=STORE_TIMEOUT)
    torn = f"; {file.torn} torn lines left out" if file.torn else ""
    short = "" if file.complete else "; the file is cut short, what it lacks is mined again"
    return f"took over the votes on {len(file.votes)} images from {path}{torn}{short}"


def restore_votes(store: Any, path: Path, origin: Origin) -> str:
    """Take over the votes of a checkpoint; returns what happened in one sentence, for the log.

    Where there are none, or other settings mined them, their images are mined again.
    """
    try:
        file = read_votes_file(path)
    except SetupError as error:
        return f"no votes of the checkpoint are used, images are mined again: {error}"
    differences = file.origin.differences(origin)
    if differences:
        return f"the votes in {path} are not used, images are mined again: they are of {'; '.join(differences)}"
    return fill_store(store, file, path)


def resumed_folder(trainer: Any) -> Path | None:
    """The checkpoint that verl goes on from, or None (verl/trainer/ppo/v1/trainer_base.py: _load_checkpoint)."""
    from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

    if trainer.resume_mode == "resume_path":
        return Path(trainer.resume_from_path).absolute()
    if trainer.resume_mode != "auto":
        return None
    found = find_latest_ckpt_path(str(Path(trainer.default_local_dir).absolute()))
    return None if found is None else Path(found)
