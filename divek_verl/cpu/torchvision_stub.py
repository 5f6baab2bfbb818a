"""Lets ``import torchvision`` succeed beside a CPU build of torch.

PyPI's torchvision is a CUDA build. Its shared object does not load beside a CPU torch, and its Python code then stops
at "operator torchvision::nms does not exist", because it attaches fake kernels to operators that nobody defined.
Image processors need torchvision's Python code only, so the operators' schemas are enough.

torch is imported inside the functions: ``import torch`` itself calls ``autoload``, so this module must be whole before.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from divek_verl.cpu import is_chosen

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torch forgets the operators of a Library that is garbage-collected.
_libraries: list[Any] = []


def _is_defined(name: str) -> bool:
    import torch

    return hasattr(torch.ops.torchvision, name)


def _load_own_operators() -> None:
    """Load torchvision's shared object where it loads: a schema defined before it would clash with its own."""
    import torch

    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return


def define_missing_operators() -> None:
    """Define torchvision's operators `nms` and `qnms` where they are missing; call before torchvision is imported.

    Does nothing where the operators exist, so it may be called any number of times.
    """
    import torch

    if not all(map(_is_defined, _SCHEMAS)):
        _load_own_operators()
    for name, schema in _SCHEMAS.items():
        if not _is_defined(name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(schema)
            _libraries.append(library)


def autoload() -> None:
    """What ``import torch`` calls in every process of an environment that has this package (``torch.backends``).

    vLLM inspects models in helper processes of its own, which import torchvision before any plugin of vLLM's or
    verl's is loaded; this entry point is the one that comes earlier. A torch that was built for the CPU alone needs
    it whatever ``VERL_PLATFORM`` says: verl imports torchvision even where it only composes a configuration.
    """
    import torch

    if is_chosen() or not any(getattr(torch.version, name, None) for name in ("cuda", "hip", "xpu")):
        define_missing_operators()
