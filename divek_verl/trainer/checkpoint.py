"""Votes saved with verl's checkpoints (``trainer.checkpoint_callback_class``)."""

from pathlib import Path
from typing import Any

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from divek_verl.trainer.vote_origin import votes_origin
from divek_verl.trainer.vote_store import CHECKPOINT_FILE, existing_store, save_votes


class SaveVotes(CheckpointCallback):
    """Writes the run's votes into each checkpoint's folder, so that a resumed run asks what this one would have."""

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        store = existing_store()
        if store is not None:
            save_votes(store, Path(checkpoint_dir).absolute() / CHECKPOINT_FILE, votes_origin(self.config))
