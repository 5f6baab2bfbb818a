"""What is wrong with a run, in words and with something to try; and the panels of numbers behind it."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from divek_verl.diagnostics import BREAKDOWNS, Breakdown, Part, averages, base_classes, base_names
from divek_verl.records import QuestionRecord
from divek_verl.report.reading import Run
from divek_verl.report.validation import final_table, image_pairs
from divek_verl.templates import read_table

# A part with fewer cells than this trips no rule.
LEAST_CELLS = 30
COMPARE = (
    "Train on, or ask fewer options; “Second step” below says where it overrides the majority and whether that helps."
)
SIGNS = {"<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Finding:
    name: str
    sentence: str
    advice: str


def findings(run: Run) -> list[Finding]:
    """The rules of ``templates/rules.csv`` that ``run`` trips, the most serious first."""
    known = numbers(run)
    found = []
    for rule in read_table("rules.csv"):
        value = known.get(rule["number"])
        if value is not None and SIGNS[rule["sign"]](value, float(rule["limit"])):
            found.append(Finding(rule["name"], rule["sentence"].format(value=value), rule["advice"]))
    return found + [Finding("second step", row.second_step, COMPARE) for row in final_table(run) if row.second_step]


def numbers(run: Run) -> dict[str, float]:
    """The numbers that rules speak of, as far as they are recorded.

    Metrics and breakdowns of the training are means over the last half of the steps.
    """
    series = {
        name: list(run.series(name).values()) for name in {name for data in run.metrics.values() for name in data}
    }
    found = {name: fmean(values[len(values) // 2 :]) for name, values in series.items() if values}
    if values := series.get("training/rollout_actor_probs_pearson_corr"):
        found["lowest correlation"] = min(values)
    if middle := median(series.get("actor/grad_norm") or [0.0]):
        found["gradient spike"] = max(series["actor/grad_norm"]) / middle
    entropy = series.get("divek/vote_entropy", [])
    if (fifth := len(entropy) // 5) and (start := fmean(entropy[:fifth])):
        found["entropy left"] = fmean(entropy[-fifth:]) / start
    steps = sorted({record.step for record in run.training})
    late = [record for record in run.training if record.step >= steps[len(steps) // 2]]
    if late:
        found["failed images"] = fmean(record.failure is not None for record in late)
    for name, breakdown in BREAKDOWNS.items():
        parts = {part: each for part, each in averages(breakdown, late).items() if each.count >= LEAST_CELLS}
        found |= {f"{name}/{part}": each.value for part, each in parts.items()}
        if name == "chosen_letter" and parts:
            found["letter bias"] = max(abs(each.value - each.reference) - noise(each) for each in parts.values())
        if name == "accuracy_by_truth" and {"injected", "voted for"} <= set(parts):
            injected, voted = parts["injected"], parts["voted for"]
            found["injected beyond voted"] = injected.value - voted.value - noise(injected, voted)
    if "groups/mixed" in found:
        found["groups/equal"] = 1 - found["groups/mixed"]
    latest = [pair.latest for pair in image_pairs(run)]
    named = averages(base_names(base_classes([*run.training, *latest])), latest)
    return found | {"base names": max(part.value for part in named.values())} if named else found


def noise(*parts: Part) -> float:
    """Two standard errors of a difference of shares, at most."""
    return 2 * sum(0.25 / part.count for part in parts) ** 0.5


@dataclass(frozen=True)
class Panel:
    """A breakdown of several sets of records, which are its columns."""

    name: str
    healthy: str
    columns: dict[str, dict[str, Part]]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def parts(self) -> list[str]:
        found = {part for column in self.columns.values() for part in column}
        return sorted(found, key=lambda part: (len(part), part))


def panels(runs: Mapping[str, Run]) -> list[Panel]:
    """The breakdowns of one run by data, or of several runs side by side, each by its training or else validation."""
    latest = {name: [pair.latest for pair in image_pairs(run)] for name, run in runs.items()}
    sets: dict[str, Sequence[QuestionRecord]] = {}
    for name, run in runs.items():
        if len(runs) > 1:
            sets[name] = run.training or latest[name]
            continue
        sets |= {"training": run.training} if run.training else {}
        for source in dict.fromkeys(record.data_source for record in latest[name]):
            sets[source] = [record for record in latest[name] if record.data_source == source]

    def panel(name: str, breakdown: Breakdown, of: Mapping[str, Sequence[QuestionRecord]]) -> Panel:
        return Panel(name, breakdown.healthy, {column: averages(breakdown, records) for column, records in of.items()})

    every = [record for name, run in runs.items() for record in (*run.training, *latest[name])]
    made = [panel(name, breakdown, sets) for name, breakdown in BREAKDOWNS.items()]
    made.append(panel("base_classes_named_on_new_images", base_names(base_classes(every)), latest))
    return [each for each in made if each.parts]
