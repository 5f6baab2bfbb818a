"""Votes with their age: one store per run, shared by all agent-loop workers, saved and restored with checkpoints.

The age of votes is counted in versions of the policy: one per training step in every mode of verl's trainer.
"""

from dataclasses import replace
from pathlib import Path

import ray
from omegaconf import DictConfig
from ray.actor import ActorHandle
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from divek_verl.errors import SetupError
from divek_verl.settings import read_settings
from divek_verl.trainer.configure import votes_origin
from divek_verl.trainer.recorder import shared_actor
from divek_verl.votes import MinedVotes
from divek_verl.votes_file import Origin, VotesFile, read_votes_file, write_votes_file

STORE_NAME = "divek_vote_store"
# In the folder of a checkpoint, beside the actor's.
CHECKPOINT_FILE = "divek_votes.jsonl"
STORE_TIMEOUT = 600


class VoteStore:
    """The votes of a run by data source and image id; a Ray actor holds it.

    Args:
        max_age: how many versions of the policy old votes may be; None for any age, 0 to reuse nothing.
    """

    def __init__(self, max_age: int | None) -> None:
        self.max_age = max_age
        self._version = 0
        self._votes: dict[tuple[str, str], MinedVotes] = {}

    def set_policy_version(self, version: int) -> None:
        """Advance the current policy version; older values are ignored."""
        self._version = max(self._version, version)

    def look_up(self, data_source: str, image_id: str, version: int) -> tuple[MinedVotes, int] | None:
        """The votes on an image and their age at ``version``, if they are young enough."""
        found = self._votes.get((data_source, image_id))
        if found is None or self.max_age == 0:
            return None
        age = max(0, max(self._version, version) - (found.policy_version or 0))
        return (found, age) if self.max_age is None or age <= self.max_age else None

    def put(self, *mined: MinedVotes) -> None:
        """Replace older votes; votes with failed requests are not kept."""
        self._votes |= {each.key: each for each in mined if each.failed == 0}

    def votes(self) -> list[MinedVotes]:
        """All votes."""
        return list(self._votes.values())


def start_store(max_age: int | None) -> ActorHandle:
    """The handle of this job's store; the first caller starts it."""
    return shared_actor(STORE_NAME, VoteStore, max_age)


class SaveVotes(CheckpointCallback):
    """Writes the run's votes into each checkpoint, so that a resumed run continues with them.

    verl loads it by name (``trainer.checkpoint_callback_class``).
    """

    def on_save(
        self, trainer: object, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: object
    ) -> None:
        try:
            store = ray.get_actor(STORE_NAME)
        except ValueError:  # a run that reuses no votes
            return
        votes = ray.get(store.votes.remote(), timeout=STORE_TIMEOUT)
        write_votes_file(Path(checkpoint_dir).absolute() / CHECKPOINT_FILE, votes_origin(self.config), votes)


def fill_store(store: ActorHandle, file: VotesFile, path: Path) -> str:
    """Put a file's votes into the store; returns one sentence for the log."""
    ray.get(store.put.remote(*file.votes), timeout=STORE_TIMEOUT)
    torn = f"; {file.torn} torn lines left out" if file.torn else ""
    short = "" if file.complete else "; the file is cut short, the missing images are mined again"
    return f"loaded the votes on {len(file.votes)} images from {path}{torn}{short}"


def restore_votes(store: ActorHandle, path: Path, origin: Origin) -> str:
    """Load the votes of a checkpoint; returns one sentence for the log.

    Without votes, or with votes that other settings mined, the images are mined again.
    """
    try:
        # verl's name of a checkpoint folder is global_step_N.
        file = read_votes_file(path, newest=int(path.parent.name.rpartition("_")[2]))
    except SetupError as error:
        return f"no votes are loaded from the checkpoint, images are mined again: {error}"
    differences = file.origin.differences(origin)
    if differences:
        return f"the votes in {path} are not used, images are mined again: they come from {'; '.join(differences)}"
    return fill_store(store, file, path)


def resumed_folder(trainer: DictConfig) -> Path | None:
    """The checkpoint that verl resumes from, or None (verl/trainer/ppo/v1/trainer_base.py: _load_checkpoint)."""
    from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

    if trainer.resume_mode == "resume_path":
        return Path(trainer.resume_from_path).absolute()
    if trainer.resume_mode != "auto":
        return None
    found = find_latest_ckpt_path(str(Path(trainer.default_local_dir).absolute()))
    return None if found is None else Path(found)


def prepare_store(config: DictConfig) -> ActorHandle | None:
    """The run's vote store with the votes of ``divek.votes_file`` and of the checkpoint that verl resumes from.

    The checkpoint's votes come last, because they are newer. None where every visit samples.
    """
    settings = read_settings(config.divek)
    if not settings.reuses_votes:
        return None
    store = start_store(settings.max_vote_age)
    if settings.votes_file is not None:
        path = Path(settings.votes_file).expanduser()
        file = read_votes_file(path)
        file.votes = [replace(mined, policy_version=0) for mined in file.votes]
        print(f"divek_verl: {fill_store(store, file, path)}")
    folder = resumed_folder(config.trainer)
    if folder is not None:
        print(f"divek_verl: {restore_votes(store, folder / CHECKPOINT_FILE, votes_origin(config))}")
    return store
