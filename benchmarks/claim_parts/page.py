"""docs/claim.md and its picture, from the content of the saved results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from claim_parts.arms import ARMS, SHOTS
from claim_parts.comparison import REFUTATIONS, ROWS, TREND
from divek_verl.measures import MEASURES

# Where the photographs of the Grocery Store Dataset can be seen: this repository holds none of them.
PHOTOGRAPHS = "https://raw.githubusercontent.com/marcusklasson/GroceryStoreDataset/master/dataset"
DOCS = Path(__file__).resolve().parents[2] / "docs"


def write_page(found: Mapping[str, Any], folder: Path = DOCS) -> None:
    """Write claim.md and its pictures into ``folder``: results of each data set; those of photographs may be empty."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    there = {data: results for data, results in found.items() if results}
    page = environment.get_template("claim.md.j2").render(
        found=there,
        arms=ARMS,
        rows=ROWS,
        measures=MEASURES,
        trend=TREND,
        refutations=REFUTATIONS,
        photographs=PHOTOGRAPHS,
        shots=SHOTS,
    )
    (folder / "claim.md").write_text(page, encoding="utf-8")
    for data, results in there.items():
        if results["comparisons"]:
            draw(results, folder / f"claim_{data}.svg")


def draw(found: dict[str, Any], file: Path) -> None:
    """Each arm's two-step gain over the start model with its interval, base and new side by side."""
    import matplotlib

    matplotlib.use("svg")
    # Equal numbers give an equal file.
    matplotlib.rcParams["svg.hashsalt"] = "claim"
    from matplotlib import pyplot

    gains = [each for each in found["comparisons"] if each["reference"] == "start"]
    names = list(dict.fromkeys(each["arm"] for each in gains))
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.5 * max(1, len(names))), layout="constrained")
    for row, colour, shift in (("base", "#4477aa", -0.12), ("new", "#cc6677", 0.12)):
        of_row = [each for each in gains if each["row"] == row]
        middles = [100 * each["difference"] for each in of_row]
        reach = [
            [100 * (each["difference"] - each["low"]) for each in of_row],
            [100 * (each["high"] - each["difference"]) for each in of_row],
        ]
        places = [names.index(each["arm"]) + shift for each in of_row]
        axes.errorbar(middles, places, xerr=reach, fmt="o", capsize=3, color=colour, label=f"{row} classes")
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(names)), [ARMS[name].title for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("gain in two-step accuracy over the start model, points")
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
