"""Lets the package index's torchvision, a CUDA build, be imported beside a CPU build of torch. vLLM imports it.

Its compiled operators do not load there, but `import torchvision` expects the schemas of two of them. They are declared
when torchvision is imported; nobody calls them. dev/install-vllm puts this file into its environment's site-packages.
"""

import importlib.abc
import sys


class _DeclareFirst(importlib.abc.MetaPathFinder):
    """Finds nothing; it only sees that torchvision is about to be imported."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules[__name__].library = library
        return None


sys.meta_path.insert(0, _DeclareFirst())
