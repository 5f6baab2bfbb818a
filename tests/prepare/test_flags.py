"""The demo's flags: classes, drawings, augmentation and the prepared set."""

import io
import json
import os
import random
import stat
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divek_verl.errors import SetupError
from divek_verl.prepare import Classes
from divek_verl.prepare import flag_drawings as flags
from divek_verl.prepare.sets.flags import main, render

from .running import contents, rows, truths

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3"><rect width="4" height="3" fill="{}"/></svg>'
# Codes that a package may hold and whose flag is that of another country.
SAME_FLAG_AS_ANOTHER = {"bl", "gf", "gp", "mf", "mq", "pm", "re", "wf", "yt", "hm", "bq", "bv", "sj", "sh", "um"}


def make_package(cache: Path, name: str, files: dict[str, bytes]) -> flags.Package:
    """A package like those of the registry, lying in the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    unpinned = flags.Package(name, "1.0.0", integrity="")
    archive = cache / unpinned.archive_name
    with tarfile.open(archive, "w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return flags.Package(name, "1.0.0", flags.integrity_of(archive))


def striped(code: str, style: str) -> flags.Drawing:
    """A made-up flag of three bands that differs between any two countries and any two styles."""
    rng = random.Random(f"{code}-{style}")
    bands = np.array([[[rng.randrange(256) for _ in range(3)] for _ in range(3)]], dtype=np.uint8)
    image = Image.fromarray(bands).resize((60, 40), Image.Resampling.NEAREST).convert("RGBA")
    return flags.Drawing(flags.COUNTRIES[code], style, image)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(cache: Path, styles: tuple[flags.Style, ...]) -> dict[str, list[flags.Drawing]]:
        return {name: [striped(code, style.name) for style in styles] for code, name in flags.COUNTRIES.items()}

    monkeypatch.setattr(flags, "load_drawings", load)


# Classes


def test_there_are_at_least_40_countries_each_once_and_each_with_a_flag_of_its_own() -> None:
    names = list(flags.COUNTRIES.values())
    assert len(names) == len(set(names)) == sum(map(len, flags.GROUPS)) >= 40
    assert not SAME_FLAG_AS_ANOTHER & set(flags.COUNTRIES)


def test_every_group_of_look_alikes_lies_on_one_side() -> None:
    classes = Classes(tuple(flags.COUNTRIES.values()))
    for group in flags.GROUPS:
        assert len(group) >= 2
        assert set(group.values()) <= set(classes.base) or set(group.values()) <= set(classes.new)


@pytest.mark.parametrize(
    "pair",
    [
        ("Chad", "Romania"),
        ("Indonesia", "Monaco"),
        ("Ireland", "Ivory Coast"),
        ("Egypt", "Iraq"),
        ("Australia", "New Zealand"),
        ("Paraguay", "Netherlands"),
        ("Slovakia", "Russia"),
        ("Qatar", "Bahrain"),
    ],
)
def test_the_known_look_alikes_share_a_group(pair: tuple[str, str]) -> None:
    assert any(set(pair) <= set(group.values()) for group in flags.GROUPS)


def test_validation_is_drawn_in_another_style_of_another_package() -> None:
    assert not {s.package for s in flags.TRAIN_STYLES} & {s.package for s in flags.VALIDATION_STYLES}


# Packages


def test_a_cached_package_is_read_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path, "@scope/pictures", {"a.txt": b"a", "b.txt": b"b"})
    monkeypatch.setenv("PATH", "")
    archive = flags.fetch(package, tmp_path)
    assert archive.name == "scope-pictures-1.0.0.tgz"
    assert flags.read_members(archive, lambda path: path == "b.txt") == {"b.txt": b"b"}


def test_without_npm_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match="install Node.js"):
        flags.fetch(flags.FLAG_ICONS, tmp_path)


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, archive: Path | None) -> None:
    """An `npm` on the PATH that gives `archive` for any package, or fails."""
    folder.mkdir()
    action = f"shutil.copy({str(archive)!r}, {archive.name!r})" if archive else "sys.exit('npm error 404 Not Found')"
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\nimport shutil, sys\nassert '--ignore-scripts' in sys.argv\n{action}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_package_is_fetched_by_npm_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path / "registry", "pictures", {"a.txt": b"a"})
    fake_npm(tmp_path / "bin", monkeypatch, tmp_path / "registry" / package.archive_name)
    archive = flags.fetch(package, tmp_path / "cache")
    assert flags.integrity_of(archive) == package.integrity
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [package.archive_name]


def test_a_package_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path / "other", "pictures", {"a.txt": b"tampered"})
    fake_npm(tmp_path / "bin", monkeypatch, tmp_path / "other" / package.archive_name)
    pinned = flags.Package("pictures", "1.0.0", "sha512-abc")
    with pytest.raises(SetupError, match="not the archive with hash sha512-abc"):
        flags.fetch(pinned, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failing_npm_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, None)
    with pytest.raises(SetupError, match="404 Not Found"):
        flags.fetch(flags.FLAG_ICONS, tmp_path / "cache")


# Drawings


def coloured_style(cache: Path, without: frozenset[str] = frozenset({"cm"})) -> flags.Style:
    """A package of every flag but Cameroon's."""
    files = {f"{code}.svg": SVG.format("#123456").encode() for code in flags.COUNTRIES if code != "cm"}
    return flags.Style("plain", make_package(cache, "plain", files), lambda code: f"{code}.svg", without)


def test_svg_drawings_are_rasterised_in_their_colour(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    drawings = flags.load_drawings(tmp_path, [coloured_style(tmp_path)])
    (drawing,) = drawings["Norway"]
    assert (drawing.country, drawing.style, drawing.image.size) == ("Norway", "plain", (320, 240))
    assert drawing.image.getpixel((160, 120)) == (0x12, 0x34, 0x56, 255)
    assert drawings["Cameroon"] == []
    # Their flags differ in shape alone.
    assert drawings["Indonesia"][0].image.size == (360, 240)
    assert drawings["Monaco"][0].image.size == (300, 240)


def test_a_flag_that_a_package_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="plain has no flag of Cameroon"):
        flags.load_drawings(tmp_path, [coloured_style(tmp_path, without=frozenset())])


def test_without_resvg_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SetupError, match="pip install resvg_py"):
        flags.load_drawings(tmp_path, [coloured_style(tmp_path)])


# Augmentation


def test_a_picture_depends_on_the_generator_alone() -> None:
    drawing = striped("no", "a").image
    first = render(drawing, random.Random("7-a"))
    random.seed(1)
    np.random.seed(1)
    assert render(drawing, random.Random("7-a")).tobytes() == first.tobytes()
    assert render(drawing, random.Random("7-b")).tobytes() != first.tobytes()


def test_a_picture_is_small_and_rgb() -> None:
    picture = render(striped("no", "a").image, random.Random(0))
    assert (picture.size, picture.mode) == ((112, 84), "RGB")
    assert render(striped("no", "a").image, random.Random(0), size=(56, 42)).size == (56, 42)


@pytest.mark.parametrize("colour", [(0, 38, 100), (0, 49, 156), (206, 17, 38), (0, 154, 73)])
@pytest.mark.parametrize("seed", range(8))
def test_light_never_changes_the_hue(colour: tuple[int, int, int], seed: int) -> None:
    picture = render(Image.new("RGB", (320, 240), colour), random.Random(seed))
    middle = np.asarray(picture.crop((46, 32, 66, 52)), dtype=float).reshape(-1, 3).mean(axis=0)
    brightest = max(colour)
    assert middle / middle.max() == pytest.approx(np.array(colour) / brightest, abs=0.06)


@pytest.mark.parametrize("seed", range(20))
def test_left_stays_left_and_top_stays_top(seed: int) -> None:
    quarters = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], dtype=np.uint8)
    drawing = Image.fromarray(quarters).resize((320, 240), Image.Resampling.NEAREST)
    picture = render(drawing, random.Random(seed))
    seen = [np.asarray(picture.getpixel(point)) > 70 for point in ((34, 26), (78, 26), (34, 58), (78, 58))]
    assert [tuple(map(bool, channels)) for channels in seen] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (True, True, False),
    ]


# The prepared set


@pytest.mark.usefixtures("no_network")
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        main(tmp_path / name, seed=seed, cache=tmp_path, train_per_class=2, val_per_class=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "three")


@pytest.mark.usefixtures("no_network")
def test_training_sees_base_classes_in_training_styles_only(tmp_path: Path) -> None:
    main(tmp_path / "out", seed=0, cache=tmp_path, train_per_class=5, val_per_class=2, pretrain_per_class=3)
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    held_out = {style.name for style in flags.VALIDATION_STYLES}
    plan = (("pretrain", "all", 3), ("train", "base", 5), ("val_base", "base", 2), ("val_new", "new", 2))
    for split, side, per_class in plan:
        assert truths(tmp_path / "out", split) == [name for name in classes[side] for _ in range(per_class)]
        ids = [row["extra_info"]["image_id"] for row in rows(tmp_path / "out", split)]
        validation_style = [any(style in image_id for style in held_out) for image_id in ids]
        assert set(validation_style) == {split.startswith("val")}


@pytest.fixture(scope="session")
def real_drawings() -> dict[str, list[flags.Drawing]]:
    """The registry's own drawings, training and held-out style; skipped where they cannot be fetched."""
    pytest.importorskip("resvg_py")
    try:
        return flags.load_drawings(styles=(*flags.TRAIN_STYLES, *flags.VALIDATION_STYLES))
    except SetupError as error:
        pytest.skip(str(error))


def test_every_country_has_a_held_out_and_several_training_drawings(
    real_drawings: dict[str, list[flags.Drawing]],
) -> None:
    for drawings in real_drawings.values():
        assert len(drawings) >= 4
        assert drawings[-1].style == flags.VALIDATION_STYLES[0].name
        assert all(min(drawing.image.size) >= 90 for drawing in drawings)


def test_the_held_out_chad_and_romania_can_be_told_apart(real_drawings: dict[str, list[flags.Drawing]]) -> None:
    def blue(drawing: flags.Drawing) -> int:
        pixel = drawing.image.getpixel((drawing.image.width // 6, drawing.image.height // 2))
        assert isinstance(pixel, tuple)
        return pixel[2]

    chad, romania = ([blue(drawing) for drawing in real_drawings[name]] for name in ("Chad", "Romania"))
    assert max(chad) < min(romania)
