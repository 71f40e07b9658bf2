"""Import torchvision, also beside a CPU-only torch.

The Linux wheels of torchvision on the package registry are linked against CUDA. Beside a CPU-only torch
their compiled operators cannot load, and `import torchvision` then fails while it registers shape functions
for `nms` and `qnms` (pytorch/vision issue 9077). cifarlib needs neither operator, only the models, which are
pure Python: declaring the two schemas is enough for the import to pass. Where torchvision imports as it
is, nothing is touched.
"""

from __future__ import annotations

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    # Kept in a module variable: the schemas vanish with the library object.
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
