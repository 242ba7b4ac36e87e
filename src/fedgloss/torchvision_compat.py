"""The one place that imports torchvision, since against a CPU-only torch its import can fail.

The torchvision wheel of PyPI carries operators built for CUDA. Beside a CPU build of torch they do
not load, and `import torchvision` then stops with "operator torchvision::nms does not exist" while
it registers the operators' shapes. Models, transforms and datasets need none of these operators,
so they are declared, without a body, and the import is tried again.
"""

import functools
import importlib
import sys
from types import ModuleType

from torch.library import Library

_declared: list[Library] = []  # a Library withdraws its operators when collected


@functools.cache
def torchvision(submodule: str = "") -> ModuleType:
    """The module `torchvision` or one of its submodules, for example "models"."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    fragment = Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(fragment)
    for half_imported in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[half_imported]
    return importlib.import_module(name)
