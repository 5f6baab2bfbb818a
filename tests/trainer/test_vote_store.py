"""Votes have an age: which are used again, which are mined anew, and what a checkpoint keeps of them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from divek_verl.trainer.vote_store import (
    CHECKPOINT_FILE,
    SaveVotes,
    VoteStore,
    fill_store,
    restore_votes,
    resumed_folder,
    start_store,
)
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, read_votes_file, write_votes_file

BASE, NEW = "divek/flags/base", "divek/flags/new"
ORIGIN = Origin("/models/small", {"num_samples": 4})


def checkpoint(folder: Path) -> Path:
    return folder / "global_step_4" / CHECKPOINT_FILE


def mined(image_id: str = "a", version: int | None = 0, source: str = BASE, **fields: Any) -> MinedVotes:
    return MinedVotes(source, image_id, Votes({"Chad": 4}), policy_version=version, **fields)


@pytest.mark.parametrize(
    ("max_age", "now", "age"),
    [(0, 0, None), (0, 3, None), (1, 3, 0), (1, 4, 1), (1, 5, None), (2, 5, 2), (None, 3, 0), (None, 903, 900)],
)
def test_votes_are_used_until_they_are_too_old(max_age: int | None, now: int, age: int | None) -> None:
    store = VoteStore(max_age)
    store.put(mined(version=3 if now else 0))
    found = store.look_up(BASE, "a", now)
    assert (None if found is None else found[1]) == age


def test_the_trainers_word_on_the_version_counts_where_it_is_newer() -> None:
    store = VoteStore(1)
    store.put(mined(version=3))
    store.set_policy_version(5)
    assert store.look_up(BASE, "a", 4) is None
    store.set_policy_version(2)
    assert store.look_up(BASE, "a", 4) is None


def test_votes_belong_to_one_data_source_and_one_image() -> None:
    store = VoteStore(None)
    store.put(mined("a"), mined("a", source=NEW))
    assert store.look_up(BASE, "b", 0) is None
    for source in (BASE, NEW):
        found = store.look_up(source, "a", 0)
        assert found is not None
        assert found[0].data_source == source


def test_newer_votes_take_the_place_of_older_ones() -> None:
    store = VoteStore(1)
    store.put(mined(version=1))
    store.put(mined(version=4))
    found = store.look_up(BASE, "a", 5)
    assert found is not None
    assert found[1] == 1
    assert len(store.votes()) == 1


def test_votes_with_failed_requests_are_not_kept() -> None:
    store = VoteStore(None)
    store.put(mined(failed=1))
    assert store.votes() == []


def test_votes_of_no_known_version_count_as_those_of_the_first_policy() -> None:
    store = VoteStore(5)
    store.put(mined(version=None))
    assert store.look_up(BASE, "a", 6) is None


# ---------------------------------------------------------------- with Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def store(cluster: None) -> Iterator[Any]:
    handle = start_store(None)
    yield handle
    ray.kill(handle)


def save(store: Any, path: Path, origin: Origin = ORIGIN) -> None:
    write_votes_file(path, origin, ray.get(store.votes.remote()))


def test_a_run_has_one_store(store: Any) -> None:
    ray.get(store.put.remote(mined()))
    assert ray.get(start_store(None).votes.remote()) == [mined()]


def test_a_checkpoint_gets_the_votes_of_the_run_and_none_where_there_is_no_store(
    cluster: None, tmp_path: Path, compose: Any
) -> None:
    callback = SaveVotes(compose("actor_rollout_ref.model.path=/models/small", "divek.num_samples=4", name="divek_cpu"))
    callback.on_save(None, 1, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    store = start_store(None)
    ray.get(store.put.remote(mined()))
    callback.on_save(None, 1, str(tmp_path))
    ray.kill(store)
    file = read_votes_file(tmp_path / CHECKPOINT_FILE)
    assert (file.votes, file.complete) == ([mined()], True)
    assert (file.origin.model, file.origin.sampling["num_samples"]) == ("/models/small", 4)


def test_what_is_saved_is_restored(store: Any, tmp_path: Path) -> None:
    ray.get(store.put.remote(mined("a", 3), mined("b", 4)))
    save(store, checkpoint(tmp_path))
    ray.get(store.put.remote(mined("a", 9)))
    told = restore_votes(store, checkpoint(tmp_path), ORIGIN)
    assert told == f"loaded the votes on 2 images from {checkpoint(tmp_path)}"
    assert ray.get(store.votes.remote()) == [mined("a", 3), mined("b", 4)]


def test_a_truncated_file_is_reported_and_what_is_left_of_it_used(store: Any, tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    ray.get(store.put.remote(mined("a"), mined("b")))
    save(store, path)
    path.write_bytes(path.read_bytes()[:-60])
    told = fill_store(store, read_votes_file(path), path)
    assert "cut short, the missing images are mined again" in told


def test_votes_from_the_future_are_not_restored(store: Any, tmp_path: Path) -> None:
    """They would count as new for as long as the run lasts."""
    ray.get(store.put.remote(mined("a", 5)))
    save(store, checkpoint(tmp_path))
    told = restore_votes(store, checkpoint(tmp_path), ORIGIN)
    assert "line 2, holds no votes (its policy version 5 is newer than the file's 4)" in told


def test_a_checkpoint_without_votes_is_reported(store: Any, tmp_path: Path) -> None:
    told = restore_votes(store, checkpoint(tmp_path), ORIGIN)
    assert told.startswith("no votes are loaded from the checkpoint, images are mined again")


def test_votes_of_other_settings_are_left_and_named(store: Any, tmp_path: Path) -> None:
    ray.get(store.put.remote(MinedVotes(BASE, "a", Votes({"Chad": 20}))))
    save(store, checkpoint(tmp_path), Origin("/models/small", {"num_samples": 20}))
    ray.kill(store)
    fresh = start_store(None)
    told = restore_votes(fresh, checkpoint(tmp_path), ORIGIN)
    assert "num_samples 20 and not 4" in told
    assert ray.get(fresh.votes.remote()) == []
    ray.kill(fresh)


# ---------------------------------------------------------------- which checkpoint


def trainer(folder: Path, **fields: Any) -> SimpleNamespace:
    given = {"resume_mode": "auto", "default_local_dir": str(folder), "resume_from_path": None, **fields}
    return SimpleNamespace(**given)


def test_the_store_follows_verl_to_its_checkpoint(tmp_path: Path) -> None:
    assert resumed_folder(trainer(tmp_path)) is None
    (tmp_path / "global_step_7").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    assert resumed_folder(trainer(tmp_path)) == tmp_path / "global_step_7"
    assert resumed_folder(trainer(tmp_path, resume_mode="disable")) is None
    named = str(tmp_path / "global_step_3")
    assert resumed_folder(trainer(tmp_path, resume_mode="resume_path", resume_from_path=named)) == Path(named)
