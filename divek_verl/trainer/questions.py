"""From a row of verl's to its multiple-choice question, or to the reason why there is none.

Nothing here imports verl: sampling, the vote store and token counts are passed in as functions.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from divek_verl import prompts
from divek_verl.class_lists import classes_of, wording_of
from divek_verl.labels import ClassNames
from divek_verl.measures import measure_votes
from divek_verl.option_sources import build_option_source
from divek_verl.question import Question, Skip, question_seed
from divek_verl.records import FailureReason, QuestionRecord
from divek_verl.settings import Settings
from divek_verl.votes import MinedVotes, Votes

logger = logging.getLogger(__name__)

# Time beyond divek.mining_timeout for what is not sampling: reading the picture, asking the vote store.
TIMEOUT_MARGIN_S = 30.0

Message = dict[str, Any]


class Prompt(TypedDict, total=False):
    """The fields of one row as verl hands it to an agent-loop worker, as far as they are read here."""

    uid: str
    agent_name: str
    index: int
    data_source: str
    raw_prompt: list[Message]
    reward_model: dict[str, Any]
    extra_info: dict[str, Any] | None
    image_root: str
    __rollout_n__: int  # where a prompt brings a group size of its own


# (messages, class list, uid, record) -> votes; raises MiningError
Mine = Callable[[list[Message], ClassNames, str, QuestionRecord], Awaitable[MinedVotes]]
# (data source, image id, policy version) -> votes and their age, or None
LookUp = Callable[[str, str, int], Awaitable[tuple[MinedVotes, int] | None]]


class MiningError(Exception):
    """An expected failure of one image, with the reason under which it is counted."""

    def __init__(self, reason: FailureReason, detail: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = None if detail is None else f"{type(detail).__name__}: {detail}"


class QuestionMaker:
    """Gets an image's votes, builds its question by ``Settings.rules`` and rewrites the prompt.

    Args:
        settings: the ``divek:`` node.
        mine: samples K answers of the policy.
        count_tokens: tokens of a conversation's text; a picture's placeholder counts as itself.
        max_prompt_tokens: verl's limit for a prompt.
        look_up: finds votes that are young enough to be used again; None where every visit samples.
        keep: stores new votes; None where every visit samples.
    """

    def __init__(
        self,
        settings: Settings,
        mine: Mine,
        *,
        count_tokens: Callable[[list[Message]], int],
        max_prompt_tokens: int,
        look_up: LookUp | None = None,
        keep: Callable[[MinedVotes], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.source = build_option_source(
            settings.option_source, mixed_with=settings.mixed_with, text_encoder=settings.text_encoder
        )
        self._mine, self._look_up, self._keep = mine, look_up, keep
        self._count_tokens, self._max_prompt_tokens = count_tokens, max_prompt_tokens

    async def rewrite(self, prompt: Prompt, record: QuestionRecord) -> Prompt | None:
        """The prompt with its open question replaced; None, with the reason in ``record``, without a question."""
        started = time.monotonic()
        try:
            return await asyncio.wait_for(
                self._rewrite(prompt, record), self.settings.mining_timeout + TIMEOUT_MARGIN_S
            )
        except MiningError as error:
            record.failure, record.detail = str(error.reason), error.detail
        except asyncio.TimeoutError:
            record.failure = str(FailureReason.MINING_TIMEOUT)
        except Exception as error:
            logger.exception("divek_verl: image %s could not be asked", record.image_id)
            record.failure, record.detail = str(FailureReason.UNEXPECTED_ERROR), f"{type(error).__name__}: {error}"
        finally:
            record.mining_seconds = time.monotonic() - started
        return None

    async def _rewrite(self, prompt: Prompt, record: QuestionRecord) -> Prompt | None:
        classes = classes_of(prompt["image_root"], record.data_source)
        # The votes are counted by display name; the row may spell the class otherwise.
        record.truth = classes.match(record.truth) or record.truth
        record.option_source = self.settings.option_source if record.split == "train" else "policy"
        record.num_options = self.settings.rules.num_options
        mined = await self._votes(prompt, record, classes)
        # In a thread: the first use of a text encoder loads it, and this loop serves all other images.
        question = await asyncio.to_thread(self.build, mined.votes, classes, record)
        measures = measure_votes(mined.votes, record.truth, question, record.greedy)
        record.set_measures(measures)
        if isinstance(question, Skip):
            record.skip = question.reason
            return None
        record.set_question(question)
        rewritten = to_multiple_choice(prompt, question, record.truth, measures)
        rewritten["extra_info"] = {**(rewritten["extra_info"] or {}), "step": record.step}
        self._check_length(prompt["raw_prompt"], rewritten["raw_prompt"], mined.open_tokens)
        return rewritten

    async def _votes(self, prompt: Prompt, record: QuestionRecord, classes: ClassNames) -> MinedVotes:
        """Votes of the store that are young enough, or K new answers of the policy."""
        training = record.split == "train"
        if training and not self.settings.samples_votes:
            record.votes_from = "none"
            return MinedVotes(*record.key, Votes({}))
        # The version that answers in this step; the trainer's own word, through the replay buffer, may be newer.
        version = max(0, record.step - 1)
        found = await self._look_up(*record.key, version) if training and self._look_up is not None else None
        if found is not None:
            mined, record.vote_age = found
            record.votes_from = "store"
            # Their prompts were counted when they were sampled.
            mined = replace(mined, prompt_tokens=0, cached_tokens=0)
        else:
            mined = await self._mine(prompt["raw_prompt"], classes, prompt["uid"], record)
            if training and self._keep is not None:
                known = mined.policy_version is not None
                await self._keep(mined if known else replace(mined, policy_version=version))
        record.set_votes(mined)
        return mined

    def build(self, votes: Votes, classes: ClassNames, record: QuestionRecord) -> Question | Skip:
        """Training: the truth is an option, and ``divek.option_source`` ranks. Validation: the votes alone.

        Training reshuffles at each visit (``divek.reshuffle``); validation asks in the same order each time.
        """
        rules, settings = self.settings.rules, self.settings
        if record.split != "train":
            return rules.build(votes, classes, seed=question_seed(settings.seed, *record.key))
        seed = question_seed(settings.seed, *record.key, record.step if settings.reshuffle else None)
        ranking = self.source.rank(votes, classes, truth=record.truth, num_options=rules.most_options, seed=seed)
        return rules.build(votes, classes, truth=record.truth, seed=seed, ranking=ranking)

    def _check_length(self, open_prompt: list[Message], question: list[Message], open_tokens: int) -> None:
        """Raise where the question does not fit; its picture takes as many tokens as in the open prompt.

        With 0 ``open_tokens`` (no votes were sampled, or an older file lacks the length), verl's own check decides.
        """
        if not open_tokens:
            return
        tokens = open_tokens + self._count_tokens(question) - self._count_tokens(open_prompt)
        limit = self._max_prompt_tokens
        if tokens > limit:
            detail = ValueError(f"{tokens} tokens, data.max_prompt_length={limit}")
            raise MiningError(FailureReason.OVERLONG_QUESTION, detail)


def to_multiple_choice(prompt: Prompt, question: Question, truth: str, measures: Mapping[str, float]) -> Prompt:
    """verl's prompt fields with the open question replaced by ``question``; the picture stays where it was.

    Args:
        prompt: fields of one row as the agent-loop worker gets them.
        question: what to ask instead.
        truth: the true class.
        measures: of the votes; passed on to the reward function, and so to verl's metrics.
    """
    wording = wording_of(prompt["image_root"], prompt["data_source"])
    text = prompts.multiple_choice(wording, question.text)
    extra_info = {
        **(prompt.get("extra_info") or {}),
        "num_options": len(question.options),
        "options": list(question.options),
        "truth": truth,
        "measures": dict(measures),
    }
    reward_model = {**prompt["reward_model"], "ground_truth": question.letter or ""}
    messages = prompts.with_text(prompt["raw_prompt"], text)
    return {**prompt, "raw_prompt": messages, "reward_model": reward_model, "extra_info": extra_info}
