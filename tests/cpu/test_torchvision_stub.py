from typing import Any

import pytest
import torch

from divek_verl.cpu import torchvision_stub


def test_a_torchvision_for_cuda_cannot_be_imported_beside_a_cpu_torch(without_adapters: dict[str, Any]) -> None:
    if without_adapters["torchvision"].startswith("torchvision "):
        pytest.skip("the installed torchvision loads beside the installed torch")
    assert without_adapters["torchvision"] == "RuntimeError: operator torchvision::nms does not exist"


def test_with_the_operators_defined_it_can(without_adapters: dict[str, Any]) -> None:
    assert without_adapters["torchvision after the operators were defined"].startswith("torchvision ")


def test_here_it_was_done_by_import_torch() -> None:
    """The entry point `torch.backends`: this test calls nothing."""
    from torchvision.transforms.v2 import functional

    assert functional.resize(torch.zeros(1, 4, 4), [2, 2]).shape == (1, 2, 2)


def test_defining_again_changes_nothing() -> None:
    torchvision_stub.define_missing_operators()
    before = list(torchvision_stub._libraries)
    torchvision_stub.define_missing_operators()
    assert torchvision_stub._libraries == before
    assert all(map(torchvision_stub._is_defined, torchvision_stub._SCHEMAS))


@pytest.mark.parametrize(
    ("platform", "cuda", "defined"),
    [
        ("cpu", None, True),
        (" CPU ", "13.0", True),
        # Composing a configuration of verl's imports torchvision, whatever the platform is.
        (None, None, True),
        (None, "13.0", False),
        ("nvidia", "13.0", False),
    ],
)
def test_only_a_cpu_is_helped(
    platform: str | None, cuda: str | None, defined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(torchvision_stub, "define_missing_operators", lambda: calls.append(True))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("VERL_PLATFORM")
    if platform is not None:
        monkeypatch.setenv("VERL_PLATFORM", platform)
    torchvision_stub.autoload()
    assert bool(calls) == defined


def test_operators_of_a_torchvision_that_loads_are_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A schema defined before the shared object is loaded would clash with the one in it."""
    defined: set[str] = set()
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "_C.so").touch()
    monkeypatch.setattr(torchvision_stub, "_is_defined", lambda name: name in defined)
    monkeypatch.setattr(
        torchvision_stub, "find_spec", lambda _: type("Spec", (), {"origin": str(package / "__init__.py")})
    )
    monkeypatch.setattr(torch.ops, "load_library", lambda path: defined.update(torchvision_stub._SCHEMAS))
    before = list(torchvision_stub._libraries)
    torchvision_stub.define_missing_operators()
    assert defined and torchvision_stub._libraries == before
