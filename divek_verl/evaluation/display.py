"""Results for a reader: tables on the terminal, and one self-contained HTML page that runs no script."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.results import Average, Difference, Results, measures_of
from divek_verl.files import write_aside
from divek_verl.images import thumbnail, to_data_url
from divek_verl.measures import MEASURES
from divek_verl.records import sentence_of
from divek_verl.templates import environment, label, plain, visible

SHOWN_FAILURES, SHOWN_PICTURES = 10, 24
WEIGHTS: dict[Literal["micro", "macro"], str] = {
    "micro": "every image weighs the same",
    "macro": "every class weighs the same",
}


def write_page(results: Results, path: Path, records: Sequence[EvaluationRecord] = ()) -> None:
    write_aside(path, render(results, records))


def render(results: Results, records: Sequence[EvaluationRecord] = ()) -> str:
    """The page, with pictures of wrong ``records`` of different classes."""
    measure = "two_step" if results.mode != "one-step" else "consistency"
    wrong = {record.truth: record for record in records if getattr(record, measure) < 1}
    shown_wrong = [
        (record, to_data_url(picture), record.chosen or record.counted.top or record.failure or "no class of the list")
        for record in list(wrong.values())[:SHOWN_PICTURES]
        if (picture := thumbnail(record.image, 160, 70))
    ]
    made = environment(
        title_of=title_of,
        share=lambda share: f"{100 * share:.1f}",
        points=lambda share: f"{100 * share:+.1f}".replace("-", "\u2212"),
        sentence=sentence_of,
        label=label,
    )
    shown = [MEASURES[name] for name in measures_of(results.mode)]
    page = made.get_template("evaluation.html.j2")
    return page.render(results=results, shown=shown, weights=WEIGHTS, wrong=shown_wrong)


def show(results: Results, console: Console) -> None:
    for kind in WEIGHTS:
        console.print(_score_table(results, kind))
    console.print(_sample_table(results))
    if results.second_step:
        console.print(
            difference_table("the gain of two steps over one answer and over the majority", results.second_step)
        )
    for line in _notes(results):
        console.print(visible(line), markup=False, highlight=False)
    comparison = results.comparison
    if comparison is None:
        return
    console.print(difference_table(f"against {plain(', '.join(comparison.runs))}", comparison.differences))
    lines = [
        f"before: {', '.join(comparison.models)}",
        *(f"another seed of this run: {run}" for run in comparison.other_seeds),
        *(f"also different: {line}" for line in comparison.other_settings),
        *(f"not compared, because not all have it: {title}" for title in results.not_compared),
    ]
    if comparison.only_here or comparison.only_there:
        lines.append(f"left out: {comparison.only_here} images only here, {comparison.only_there} only there")
    for line in lines:
        console.print(visible(line), markup=False, highlight=False)


def _table(title: str, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
    """A table by data source. No column has a minimum width: on a narrow terminal cells wrap and nothing is cut."""
    table = Table(title=title, title_justify="left")
    for name in ("data source", *words):
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _score_table(results: Results, kind: Literal["micro", "macro"]) -> Table:
    names = measures_of(results.mode)
    titles = [MEASURES[name].title for name in names]
    title = f"{kind} average, % [95 % interval over classes] (over images): {WEIGHTS[kind]}"
    # Beside two-step accuracy, the part of it that is a lucky choice among fillers.
    with_fillers = kind == "micro" and "two_step" in names
    table = _table(title, ["images", *titles, *(["of two-step: fillers"] if with_fillers else [])])

    def cells(averages: Mapping[str, Average]) -> Iterator[str]:
        for name in names:
            if name not in averages:
                yield "none"
                continue
            found = averages[name].micro if kind == "micro" else averages[name].macro
            text = _with_unjudged(f"{100 * found.value:.1f}", found.unjudged)
            yield (
                f"{text}\n[{100 * found.low:.1f}, {100 * found.high:.1f}]\n"
                f"({100 * found.image_low:.1f}, {100 * found.image_high:.1f})"
            )

    for group in results.groups:
        fillers = [f"{100 * group.right_by_filler:.1f}"] if with_fillers else []
        table.add_row(plain(group.data_source), str(group.images), *cells(group.averages), *fillers)
    for mean in results.harmonic_means:
        table.add_row(f"{plain(mean.dataset)}, harmonic mean", "", *cells(mean.averages), style="bold")
    for over in results.over_data_sets:
        table.add_row(f"{over.data_sets} data sets, {over.row}", "", *cells(over.averages), style="bold")
    return table


def _with_unjudged(text: str, share: float) -> str:
    return f"{text} +{100 * share:.1f}?" if share else text


def _with_spread(value: float, unjudged: float, spread: float) -> str:
    text = _with_unjudged(f"{100 * value:.1f}", unjudged)
    return f"{text} ± {100 * spread:.1f}" if spread else text


def _sample_table(results: Results) -> Table:
    shares = ("unanswered %", "unknown %", "failed %", "truncated %")
    table = _table("samples and questions", (*shares, "mean options", "tokens in", "tokens out", "right by filler %"))
    for group in results.groups:
        table.add_row(
            plain(group.data_source),
            *(f"{100 * share:.1f}" for share in (group.unanswered, group.unknown, group.failed, group.truncated)),
            f"{group.mean_options:.2f}",
            f"{group.input_tokens_per_image:.1f}",
            f"{group.output_tokens_per_image:.1f}",
            f"{100 * group.right_by_filler:.1f}",
        )
    return table


def difference_table(title: str, differences: list[Difference]) -> Table:
    numbers = ("images", "before", "after", "difference", "p by class", "with Holm")
    table = _table(f"{title}, points [95 % interval over classes] (over images)", numbers, words=["measure"])
    for each in differences:
        table.add_row(
            plain(each.data_source),
            title_of(each),
            str(each.images),
            _with_spread(each.before, each.before_unjudged, each.before_spread),
            _with_spread(each.after, each.after_unjudged, each.after_spread),
            f"{100 * each.difference:+.1f}\n[{100 * each.low:+.1f}, {100 * each.high:+.1f}]\n"
            f"({100 * each.image_low:+.1f}, {100 * each.image_high:+.1f})",
            f"{each.p_value:.2g}",
            f"{each.p_holm:.2g}",
        )
    return table


def title_of(difference: Difference) -> str:
    """The measure, and the one that it is compared with where that is another."""
    measure, baseline = (MEASURES[name].title for name in (difference.measure, difference.baseline))
    return measure if measure == baseline else f"{measure} over {baseline}"


def _notes(results: Results) -> Iterator[str]:
    if results.settings.get("protocol") == "paper":
        yield "protocol paper: these numbers may stand beside the paper's, but not beside those of the strict protocol"
    judge = results.judge
    if judge is not None:
        unjudged = ", ".join(f"{count} {reason}" for reason, count in judge.unjudged.items())
        cost = "" if judge.cost is None else f", cost {judge.cost:.4f}"
        yield (
            f"judge {judge.model}: {judge.pairs} pairs, {judge.same} same, {judge.different} different, "
            f"{sum(judge.unjudged.values())} unjudged{f' ({unjudged})' if unjudged else ''}, "
            f"{judge.input_tokens} + {judge.output_tokens} tokens{cost}"
        )
    for group in results.groups:
        if group.unknown > 0.5:
            yield (
                f"{group.data_source}: warning: {100 * group.unknown:.0f} % of the samples name no class of the list; "
                "a second step that chooses among fillers is right by luck"
            )
        for reason, count in group.failures.items():
            yield f"{group.data_source}: {count} of {group.images} images failed, {reason}"
        for reason, count in group.sample_failures.items():
            done = "dropped" if reason == "more_than_asked" else "failed"
            yield f"{group.data_source}: {count} samples {done}, {reason}; their images have other samples"
    for failure in results.failures[:SHOWN_FAILURES]:
        yield f"  {failure.data_source} {failure.image_id}: {failure.reason} ({failure.detail or 'no detail'})"
    if len(results.failures) > SHOWN_FAILURES:
        yield f"  ... and {len(results.failures) - SHOWN_FAILURES} more in results.json"
