"""Files beside the code: pinned versions fit the package's requirements, and machine-readable files can be read."""

import re
from importlib.metadata import metadata, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from divek_verl.commands.doctor import requirements

REPOSITORY = Path(__file__).resolve().parents[1]


def verls_own(extra: str) -> list[Requirement]:
    """What verl's own extra adds, and the extras that it names in turn."""
    found = []
    for each in map(Requirement, requires("verl") or []):
        if each.marker is not None and each.marker.evaluate({"extra": extra}):
            found += [each, *(line for inner in each.extras for line in verls_own(inner))]
    return found


def test_the_gpu_extra_pins_what_verls_own_pins() -> None:
    pinned = {each.name: str(each.specifier) for each in requirements("gpu") if str(each.specifier).startswith("==")}
    expected = {each.name: str(each.specifier) for each in verls_own("vllm")}
    assert pinned == {name: expected[name] for name in ("torch", "torchvision", "transformers", "vllm")}


def test_the_dockerfile_pins_what_the_gpu_extra_allows() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    pinned = [Requirement(each) for each in re.findall(r'"([\w\[\]-]+[=<>][^"]+)"', text) if "setuptools" not in each]
    allowed = {each.name: each.specifier for each in [*requirements("gpu"), *verls_own("fsdp")]}
    assert {"torch", "vllm", "flash-attn", "verl"} <= {each.name for each in pinned} <= set(allowed)
    for each in pinned:
        if "==" in str(each.specifier):
            version = str(each.specifier).removeprefix("==").replace("*", "0")
            assert allowed[each.name].contains(version), each
        else:
            assert each.specifier == allowed[each.name]
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    assert all((REPOSITORY / path).exists() for line in copied for path in line.split())


def test_the_image_has_the_cuda_of_torchs_own_wheels() -> None:
    """flash-attn is compiled in the image and refuses a compiler whose major version differs from torch's."""
    text = (REPOSITORY / "Dockerfile").read_text()
    base = re.search(r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-cudnn-devel-ubuntu", text, re.MULTILINE)
    torch = re.search(r"torch==(\d+\.\d+)\.", text)
    assert base and torch
    # torch 2.11.0 on PyPI requires cuda-toolkit==13.0.2.
    assert {"2.11": "13.0"}[torch[1]] == base[1]


def test_the_images_python_is_a_supported_one() -> None:
    used = re.findall(r"python(3\.\d+)", (REPOSITORY / "Dockerfile").read_text())
    supported = SpecifierSet(metadata("divek_verl")["Requires-Python"])
    assert len(set(used)) == 1 and supported.contains(used[0])


def test_the_constraints_fit_the_cpu_extra() -> None:
    lines = (REPOSITORY / "constraints-cpu.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    for each in requirements("cpu"):
        if (version := pinned.get(each.name.lower())) is not None:
            assert SpecifierSet(str(each.specifier)).contains(version, prereleases=True), each


def test_the_citation_file_is_one() -> None:
    content = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(content)
    assert content["license"] == "Apache-2.0"


def test_the_licence_is_whole() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text and "9. Accepting Warranty" in text
