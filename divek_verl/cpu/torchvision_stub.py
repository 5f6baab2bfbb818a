"""Lets ``import torchvision`` succeed beside a CPU build of torch.

PyPI's torchvision is a CUDA build. Its shared object does not load beside a CPU torch, and its Python code then stops
at "operator torchvision::nms does not exist", because it attaches fake kernels to operators that nobody defined.
Image processors need torchvision's Python code only, so the operators' schemas are enough.

torch is imported inside the functions: ``import torch`` itself calls ``autoload``, which needs this module complete.
"""

from importlib.util import find_spec
from pathlib import Path

from divek_verl.cpu import is_chosen

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torch forgets the operators of a Library that is garbage-collected.
_libraries: list[object] = []


def _is_defined(name: str) -> bool:
    import torch

    return hasattr(torch.ops.torchvision, name)


def define_missing_operators() -> None:
    """Define torchvision's operators `nms` and `qnms` if they are missing; call it before torchvision is imported."""
    import torch

    if not all(map(_is_defined, _SCHEMAS)):
        # Load torchvision's shared object if it loads: a schema defined before it would clash with its own.
        spec = find_spec("torchvision")
        folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
        for library in [] if folder is None else folder.glob("_C*.so"):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                break
    for name, schema in _SCHEMAS.items():
        if not _is_defined(name):
            fragment = torch.library.Library("torchvision", "FRAGMENT")
            fragment.define(schema)
            _libraries.append(fragment)


def autoload() -> None:
    """Called by ``import torch`` in every process of an environment that has this package (``torch.backends``).

    vLLM inspects models in helper processes that import torchvision before they load any plugin; this entry point comes
    earlier. A torch built only for the CPU needs it whatever ``VERL_PLATFORM`` says: verl imports torchvision even to
    compose a configuration.
    """
    import torch

    if is_chosen() or not any(getattr(torch.version, name, None) for name in ("cuda", "hip", "xpu")):
        define_missing_operators()
