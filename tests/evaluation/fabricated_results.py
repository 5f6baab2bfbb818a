"""Results by hand, with all that a page or a table may have to show."""

from divek_verl.engines.rows import DataFile
from divek_verl.evaluation import results as form
from divek_verl.measures import MEASURES

HOSTILE = '<script>alert(1)</script>\u202e[bold]"&</template>'
BASE = "divek/flags/base"


def averages(value: float) -> dict[str, form.Average]:
    bounds = {"value": value, "low": value - 0.1, "high": value + 0.1}
    bounds |= {"image_low": value - 0.05, "image_high": value + 0.05}
    found, unjudged = form.Estimate(**bounds), form.Estimate(**bounds, unjudged=0.05)
    return {name: form.Average(micro=unjudged if name == "one_step" else found, macro=found) for name in MEASURES}


def group(side: str, value: float, dataset: str = "flags") -> form.Group:
    place = {"data_source": f"divek/{dataset}/{side}", "dataset": dataset, "side": side, "images": 160, "classes": 2}
    shares = {"unanswered": 0.02, "unknown": 0.03, "failed": 0.01, "truncated": 0.0, "right_by_filler": 0.0}
    means = {"mean_options": 3.25, "input_tokens_per_image": 231.5, "output_tokens_per_image": 160.0}
    per_class = [
        {"name": "Chad", "images": 80, "means": dict.fromkeys(MEASURES, value), "unjudged": {"one_step": 0.015}},
        {"name": HOSTILE, "images": 80, "means": dict.fromkeys(MEASURES, value)},
    ]
    failures = {"open question: unreadable_image": 1}
    numbers = {**place, **shares, **means, "averages": averages(value), "failures": failures, "per_class": per_class}
    return form.Group.model_validate(numbers)


def difference(measure: str, test: form.McNemar | None) -> form.Difference:
    sides = {"before": 0.5, "after": 0.625, "before_unjudged": 0.025}
    change = {"difference": 0.125, "low": 0.05, "high": 0.2, "image_low": 0.075, "image_high": 0.175}
    change |= {"p_value": 0.003, "p_holm": 0.006, "after_spread": 0.012}
    return form.Difference(
        measure=measure, baseline=measure, data_source=BASE, images=160, mcnemar=test, **sides, **change
    )


def results(**changes: object) -> form.Results:
    """A whole evaluation, with a hostile name in each place where a name may come from outside."""
    test = form.McNemar(gained=30, lost=10, p_value=0.0022)
    failure = {"data_source": BASE, "image_id": HOSTILE, "step": "open question", "reason": "unreadable_image"}
    asked = {"pairs": 10, "same": 3, "different": 5, "unjudged": {"timeout": 2}}
    spent = {"input_tokens": 1000, "output_tokens": 100, "cost": 0.25}
    made = form.Results(
        model=f"models/{HOSTILE}",
        base_url=None,
        mode="both",
        settings={"num_samples": 20, "num_options": 5, "seed": 0, "note": HOSTILE},
        versions={"python": "3.11.7", "divek_verl": "0.1.0"},
        data=[DataFile(path=f"{HOSTILE}.parquet", sha256="ab" * 32, rows=160)],
        images=320,
        groups=[group("base", 0.6), group("new", 0.3)],
        harmonic_means=[form.HarmonicMean(dataset="flags", averages=averages(0.4))],
        over_data_sets=[form.OverDataSets(row="harmonic mean", data_sets=5, averages=averages(0.45))],
        second_step=[difference("two_step", test)],
        failures=[form.Failure(**failure, detail=HOSTILE)] * 12,
        judge=form.Judged(model=HOSTILE, prompt_sha256="cd" * 32, **asked, **spent),
        comparison=form.Comparison(
            runs=[HOSTILE, "runs/b"],
            models=[HOSTILE],
            other_seeds=["runs/c"],
            only_here=1,
            only_there=2,
            other_settings=["num_options: 3 -> 5"],
            differences=[difference("two_step", test), difference("one_step", None)],
        ),
    )
    return made.model_copy(update=changes)
