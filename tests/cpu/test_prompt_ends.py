"""The end of a prompt is copied from a sample that holds it, and only from there."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.request import RequestStatus

from divek_verl.cpu.prompt_ends import PromptEnds

BLOCK = 4
PROMPT = list(range(100, 110))  # two blocks, and two tokens after them
START = 8


def request(
    name: str, tokens: list[int] = PROMPT, hashed: str = "a", picture: tuple[int, int] = (1, 2), answered: int = 0
) -> Any:
    """What vLLM's scheduler hands over; ``hashed`` is what whole blocks depend on."""
    place = SimpleNamespace(offset=picture[0], length=picture[1])
    return SimpleNamespace(
        request_id=name,
        prompt_token_ids=tokens,
        num_prompt_tokens=len(tokens),
        block_hashes=[(hashed, *tokens[: (index + 1) * BLOCK]) for index in range(len(tokens) // BLOCK)],
        mm_features=[SimpleNamespace(mm_position=place)],
        num_output_tokens=answered,
        status=RequestStatus.WAITING,
    )


def prompt_ends(chunked: bool = False) -> PromptEnds:
    config = SimpleNamespace(
        kv_transfer_config=SimpleNamespace(),
        scheduler_config=SimpleNamespace(enable_chunked_prefill=chunked),
        cache_config=SimpleNamespace(block_size=BLOCK),
    )
    return PromptEnds(config, KVConnectorRole.SCHEDULER, SimpleNamespace())


def schedule(ends: PromptEnds, asked: Any, blocks: list[int], computed: int = START) -> int:
    """What vLLM's scheduler does with a request that is about to run; the number of tokens to be copied."""
    matched, later = ends.get_num_new_matched_tokens(asked, computed)
    assert not later
    ends.update_state_after_alloc(asked, SimpleNamespace(get_block_ids=lambda: (blocks,)), matched)
    asked.status = RequestStatus.RUNNING
    return matched


def copies(ends: PromptEnds) -> list[tuple[int, int]]:
    step = ends.build_connector_meta(SimpleNamespace())
    return list(zip(step.sources, step.targets, strict=True))


def test_all_samples_but_the_first_copy_all_but_the_last_token() -> None:
    ends = prompt_ends()
    assert schedule(ends, request("first"), [0, 1, 2], computed=0) == 0
    assert schedule(ends, request("second"), [0, 1, 3]) == 1
    assert copies(ends) == [(2, 3)]
    assert schedule(ends, request("third"), [0, 1, 4]) == 1
    assert copies(ends) == [(2, 4)] and copies(ends) == []


def test_of_a_prompt_of_whole_blocks_the_last_one_is_copied() -> None:
    ends = prompt_ends()
    assert schedule(ends, request("first", PROMPT[:8]), [0, 1], computed=0) == 0
    assert schedule(ends, request("second", PROMPT[:8]), [0, 2], computed=4) == 3
    assert copies(ends) == [(1, 2)]


@pytest.mark.parametrize(
    "other",
    [
        request("other", [*PROMPT[:9], 7]),
        request("other", PROMPT[:9]),
        request("other", hashed="b"),
        request("other", answered=1),
    ],
    ids=["another end", "a shorter end", "another picture", "answers have begun"],
)
def test_another_prompt_copies_nothing(other: Any) -> None:
    ends = prompt_ends()
    schedule(ends, request("first"), [0, 1, 2], computed=0)
    assert schedule(ends, other, [0, 1, 3]) == 0
    assert copies(ends) == []


def test_what_the_cache_lost_is_computed() -> None:
    ends = prompt_ends()
    schedule(ends, request("first"), [0, 1, 2], computed=0)
    assert schedule(ends, request("second"), [0, 3, 4], computed=4) == 0


@pytest.mark.parametrize("picture", [(7, 2), (9, 1)])
def test_a_picture_in_the_end_is_in_no_hash(picture: tuple[int, int]) -> None:
    ends = prompt_ends()
    schedule(ends, request("first", picture=picture), [0, 1, 2], computed=0)
    assert schedule(ends, request("second", picture=picture), [0, 1, 3]) == 0


def test_a_prompt_of_one_block_has_no_hash() -> None:
    ends = prompt_ends()
    for name, block in (("first", 0), ("second", 1)):
        asked = request(name, PROMPT[:3], picture=(0, 0))
        assert schedule(ends, asked, [block], computed=0) == 0
        ends.request_finished(asked, [block])


def test_a_request_that_ended_or_gave_its_blocks_back_is_no_source() -> None:
    ends = prompt_ends()
    first, second, third, fourth = (request(name) for name in ("first", "second", "third", "fourth"))
    schedule(ends, first, [0, 1, 2], computed=0)
    schedule(ends, second, [0, 1, 3])
    copies(ends)
    ends.request_finished(first, [0, 1, 2])
    schedule(ends, third, [0, 1, 4])
    assert copies(ends) == [(3, 4)]
    second.status = third.status = RequestStatus.PREEMPTED
    assert schedule(ends, fourth, [0, 1, 5]) == 0
    assert copies(ends) == []


def test_a_request_that_comes_back_after_its_first_answers_holds_no_end() -> None:
    ends = prompt_ends()
    first = request("first")
    schedule(ends, first, [0, 1, 2], computed=0)
    first.status, first.num_output_tokens = RequestStatus.PREEMPTED, 3
    schedule(ends, first, [5, 6, 7, 8], computed=0)
    assert schedule(ends, request("second"), [5, 6, 9]) == 0


def test_a_request_whose_picture_waits_for_the_encoder_holds_no_end_yet() -> None:
    ends = prompt_ends()
    schedule(ends, request("first"), [0], computed=0)
    assert schedule(ends, request("second"), [0, 1, 2]) == 0


def test_nothing_is_kept_of_requests_that_ended() -> None:
    ends = prompt_ends()
    asked = [request(str(number)) for number in range(5)]
    for each in asked:
        schedule(ends, each, [0, 1, 2])
    for each in asked:
        assert ends.request_finished(each, [0, 1, 2]) == (False, None)
    assert not ends._holders._of_prompt and not ends._holders._prompts


def test_blocks_are_copied_layer_by_layer() -> None:
    ends = prompt_ends()
    schedule(ends, request("first"), [0, 1, 2], computed=0)
    schedule(ends, request("second"), [0, 1, 3])
    schedule(ends, request("third"), [0, 1, 5])
    step = ends.build_connector_meta(SimpleNamespace())
    caches = {name: torch.randn(6, 2, BLOCK, 8) for name in ("one", "other")}
    before = {name: cache.clone() for name, cache in caches.items()}
    ends.register_kv_caches(caches)
    ends.bind_connector_metadata(step)
    ends.start_load_kv(None)
    ends.wait_for_layer_load("one")
    assert torch.equal(caches["one"][3], before["one"][2]) and torch.equal(caches["one"][5], before["one"][2])
    assert all(torch.equal(caches["one"][block], before["one"][block]) for block in (0, 1, 2, 4))
    assert torch.equal(caches["other"], before["other"])


def test_a_step_without_copies_changes_nothing() -> None:
    ends = prompt_ends()
    caches = {"one": torch.randn(3, 2, BLOCK, 8)}
    before = caches["one"].clone()
    ends.register_kv_caches(caches)
    ends.bind_connector_metadata(ends.build_connector_meta(SimpleNamespace()))
    ends.start_load_kv(None)
    ends.wait_for_layer_load("one")
    assert torch.equal(caches["one"], before)


def test_prompts_in_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="enable_chunked_prefill=False"):
        prompt_ends(chunked=True)
