"""Results on the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from divek_verl.evaluation.measuring import TITLES
from divek_verl.evaluation.results import Average, Comparison, Difference, Estimate, Group, Results
from divek_verl.templates import plain, visible

SHOWN_FAILURES = 10
SAMPLE_COLUMNS = (
    "unanswered %",
    "unknown %",
    "failed %",
    "truncated %",
    "mean options",
    "tokens in",
    "tokens out",
    "right by filler %",
)


def show(results: Results, console: Console) -> None:
    """Print everything that fits on a screen."""
    console.print(score_table(results, "micro"))
    console.print(score_table(results, "macro"))
    console.print(sample_table(results))
    if results.second_step:
        console.print(difference_table("what the second step adds to the most frequent answer", results.second_step))
    for line in _notes(results):
        console.print(visible(line), markup=False, highlight=False)
    if results.comparison is not None:
        _show_comparison(results.comparison, console)


def percent(estimate: Estimate) -> str:
    """A share in percent with its interval, and what is unjudged beside it."""
    text = f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return _with_unjudged(text, estimate.unjudged)


def _with_unjudged(text: str, share: float) -> str:
    return f"{text} +{100 * share:.1f}?" if share else text


def _table(title: str, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
    """A table by data source that is read on a narrow terminal too: what does not fit goes on below, nothing is cut.

    No column has a least width: that would push the last numbers off the terminal.
    """
    table = Table(title=title, title_justify="left")
    for name in ("data source", *words):
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def score_table(results: Results, kind: str) -> Table:
    """Every measure of every data source and each harmonic mean; ``kind`` is micro or macro."""
    weighed = {"micro": "every image weighs the same", "macro": "every class weighs the same"}[kind]
    names = list(results.groups[0].averages)
    titles = [TITLES[name] for name in names]
    table = _table(f"{kind} average, % [95 % interval]: {weighed}", ["images", *titles])
    for group in results.groups:
        table.add_row(plain(group.data_source), str(group.images), *_cells(group.averages, names, kind))
    for mean in results.harmonic_means:
        title = f"{plain(mean.dataset)}, harmonic mean"
        table.add_row(title, "", *_cells(mean.averages, names, kind), style="bold")
    for over in results.over_data_sets:
        table.add_row(f"{over.data_sets} data sets, {over.row}", "", *_cells(over.averages, names, kind), style="bold")
    return table


def _cells(averages: dict[str, Average], names: list[str], kind: str) -> Iterator[str]:
    for name in names:
        yield percent(getattr(averages[name], kind))


def sample_table(results: Results) -> Table:
    """What the samples and the questions were like."""
    table = _table("samples and questions", SAMPLE_COLUMNS)
    for group in results.groups:
        table.add_row(plain(group.data_source), *_sample_cells(group))
    return table


def _sample_cells(group: Group) -> Iterator[str]:
    for share in (group.unanswered, group.unknown, group.failed, group.truncated):
        yield f"{100 * share:.1f}"
    yield f"{group.mean_options:.2f}"
    yield f"{group.input_tokens_per_image:.1f}"
    yield f"{group.output_tokens_per_image:.1f}"
    yield f"{100 * group.right_by_filler:.1f}"


def difference_table(title: str, differences: list[Difference]) -> Table:
    """Paired differences in points, with McNemar's test where it applies."""
    numbers = ("images", "before", "after", "difference", "gained", "lost", "McNemar p")
    table = _table(f"{title}, points [95 % interval]", numbers, words=["measure"])
    for each in differences:
        table.add_row(*_difference_cells(each))
    return table


def _difference_cells(each: Difference) -> Iterator[str]:
    yield plain(each.data_source)
    yield TITLES[each.measure]
    yield str(each.images)
    yield _with_unjudged(f"{100 * each.before:.1f}", each.before_unjudged)
    yield _with_unjudged(f"{100 * each.after:.1f}", each.after_unjudged)
    yield f"{100 * each.difference:+.1f} [{100 * each.low:+.1f}, {100 * each.high:+.1f}]"
    test = each.mcnemar
    yield from ("", "", "") if test is None else (str(test.gained), str(test.lost), f"{test.p_value:.2g}")


def _notes(results: Results) -> Iterator[str]:
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
        for reason, count in group.failures.items():
            yield f"{group.data_source}: {count} of {group.images} images failed, {reason}"
        for reason, count in group.sample_failures.items():
            yield f"{group.data_source}: {count} samples failed, {reason}, of images that have others"
    for failure in results.failures[:SHOWN_FAILURES]:
        yield f"  {failure.data_source} {failure.image_id}: {failure.reason} ({failure.detail or 'no detail'})"
    if len(results.failures) > SHOWN_FAILURES:
        yield f"  ... and {len(results.failures) - SHOWN_FAILURES} more in results.json"


def _show_comparison(comparison: Comparison, console: Console) -> None:
    console.print(difference_table(f"against {plain(comparison.run)}", comparison.differences))
    lines = [f"before: {comparison.model}", *(f"also different: {line}" for line in comparison.other_settings)]
    if comparison.only_here or comparison.only_there:
        lines.append(f"left out: {comparison.only_here} images only here, {comparison.only_there} only there")
    for line in lines:
        console.print(visible(line), markup=False, highlight=False)
