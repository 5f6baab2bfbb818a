"""A linear probe on the photographs: the reference line of the claim on groceries.

    python benchmarks/claim_parts/reference.py --data runs/claim/grocery/seed-4/data \
        --tower runs/claim/grocery/tower --out runs/claim/grocery/tower/reference.json

The probe reads the teacher's features of the photographs that are set apart, or those of the taught tower, with their
labels, and names validation photographs among the classes of their side, as the open question does.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from claim_parts.photographs import SIDE
from claim_parts.tower import Teacher, image_tokens, shrunk
from divek_verl.class_lists import load_classes
from divek_verl.demo import model
from divek_verl.demo.lessons import Pictures
from divek_verl.demo.run import SIDES
from divek_verl.errors import SetupError
from divek_verl.files import write_aside

_BATCH = 64
_TOP = 5
_SHRINK = 1e-3


def linear_probe(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.nn.Linear:
    """Logistic regression on standardised features, shape (photographs, size)."""
    probe = torch.nn.Linear(features.shape[1], classes)
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        wrong = functional.cross_entropy(probe(features), labels) + _SHRINK * probe.weight.square().sum()
        wrong.backward()
        return wrong

    optimiser.step(loss)
    return probe


class Tower:
    """A taught vision tower of a model."""

    def __init__(self, folder: Path) -> None:
        self._processor = model.build_processor(model.build_tokenizer([""], []))
        self._tower = model.build_model(self._processor.tokenizer, 0, folder).model.visual.eval()

    @torch.inference_mode()
    def features(self, photographs: torch.Tensor) -> torch.Tensor:
        """Image tokens of photographs with 0 to 255; shape (photographs, places, size)."""
        return image_tokens(self._tower, self._processor, shrunk(photographs))


def measure(network: Teacher | Tower, data: Path) -> dict[str, float]:
    """The share of validation photographs whose class comes first, and among the first five, of those of its side."""
    names = load_classes(str(data), "all").names

    def read(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = Pictures.load(data / f"{name}.parquet", SIDE)
        batches = [each.float() for each in pictures.pixels.split(_BATCH)]
        if name == "pretrain":
            batches += [each.flip(-1) for each in batches]
        labels = torch.tensor([names.index(each) for each in pictures.names])
        features = torch.cat([network.features(each).mean(dim=1) for each in batches])
        return features, labels.repeat(len(features) // len(labels))

    features, labels = read("pretrain")
    middle, spread = features.mean(dim=0), features.std(dim=0) + 1e-6
    probe, right = linear_probe((features - middle) / spread, labels, len(names)), []
    for side in SIDES:
        features, labels = read(f"val_{side}")
        own = torch.tensor([names.index(each) for each in load_classes(str(data), side).names])
        ranked = own[probe((features - middle) / spread)[:, own].argsort(dim=1, descending=True)]
        right.append((ranked[:, :_TOP] == labels[:, None]).float().cumsum(dim=1))
    hits = torch.cat([functional.pad(each, (0, _TOP - each.shape[1]), mode="replicate") for each in right]).mean(dim=0)
    return {"top1": float(hits[0]), "top5": float(hits[-1])}


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set, with a file pretrain.parquet.")],
    tower: Annotated[Path, typer.Option(help="Folder of the taught tower.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
) -> None:
    """Measure the probe of the teacher and of the tower, unless `out` is there."""
    if out.is_file():
        return
    model.use_one_thread()
    try:
        found = {"EfficientNet-Lite0": measure(Teacher(), data), "the vision tower": measure(Tower(tower), data)}
        write_aside(out, json.dumps(found, indent=1) + "\n")
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
