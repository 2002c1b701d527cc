"""lookaway: run multimodal LLMs with fewer visual tokens.

Public names are imported on first use; importing the package changes nothing and loads no heavy dependency.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "attach": "lookaway.engine.api",
    "reference": "lookaway.engine.api",
    "merge": "lookaway.engine.skip.merging",
    "unmerge": "lookaway.engine.skip.merging",
    "load": "lookaway.policies",
    "load_model": "lookaway.models.loading",
    "smaller_picture": "lookaway.models.smaller_pictures",
    "smaller_pictures": "lookaway.models.smaller_pictures",
    "KeepAll": "lookaway.policies.fixed",
    "ExitAt": "lookaway.policies.fixed",
    "RandomExit": "lookaway.policies.fixed",
    "VisualExit": "lookaway.policies.visual_exit",
    "KeepSchedule": "lookaway.policies.keep_schedule",
    "FastV": "lookaway.policies.baselines.fastv",
    "VTW": "lookaway.policies.baselines.vtw",
    "PyramidDrop": "lookaway.policies.baselines.pyramiddrop",
    "FitPrune": "lookaway.policies.baselines.fitprune",
    "SparseVLM": "lookaway.policies.baselines.sparsevlm",
    "DART": "lookaway.policies.baselines.dart",
    "AutoPrune": "lookaway.policies.baselines.autoprune",
    "ShortV": "lookaway.policies.baselines.shortv",
    "DivPrune": "lookaway.policies.before_decoder.divprune",
    "CDPruner": "lookaway.policies.before_decoder.cdpruner",
    "VisionZip": "lookaway.policies.before_decoder.visionzip",
    "VisionZipStyle": "lookaway.policies.before_decoder.visionzip",
    "Downsample": "lookaway.policies.before_decoder.downsample",
    "RandomKeep": "lookaway.policies.baselines.random_keep",
    "UniformKeep": "lookaway.policies.baselines.uniform_keep",
    "AttentionSkip": "lookaway.policies.attention_skip",
    "SecondLook": "lookaway.policies.second_look",
    "Twig": "lookaway.policies.twig",
    "chain": "lookaway.policies.compose",
    "ExitGates": "lookaway.modules.gates",
    "SkipAdapters": "lookaway.modules.adapters",
    "AdapterShape": "lookaway.modules.adapters",
    "Decision": "lookaway.core.decision",
    "Draft": "lookaway.core.draft",
    "LayerView": "lookaway.core.decision",
    "Policy": "lookaway.core.decision",
    "TokenLayout": "lookaway.core.layout",
    "Sample": "lookaway.core.record",
    "Trace": "lookaway.core.record",
    "LookawayError": "lookaway.core.errors",
}
_PACKAGES = ("anatomy", "policies")  # callable packages: la.anatomy(model), la.policies()

__all__ = ["__version__", *sorted(_HOME), *_PACKAGES]

if TYPE_CHECKING:
    from .anatomy.base import Anatomy
    from .core.decision import Decision as Decision
    from .core.decision import LayerView as LayerView
    from .core.decision import Policy as Policy
    from .core.draft import Draft as Draft
    from .core.errors import LookawayError as LookawayError
    from .core.layout import TokenLayout as TokenLayout
    from .core.record import Sample as Sample
    from .core.record import Trace as Trace
    from .engine.api import attach as attach
    from .engine.api import reference as reference
    from .engine.skip.merging import merge as merge
    from .engine.skip.merging import unmerge as unmerge
    from .models.loading import load_model as load_model
    from .models.smaller_pictures import smaller_picture as smaller_picture
    from .models.smaller_pictures import smaller_pictures as smaller_pictures
    from .modules.adapters import AdapterShape as AdapterShape
    from .modules.adapters import SkipAdapters as SkipAdapters
    from .modules.gates import ExitGates as ExitGates
    from .policies import load as load
    from .policies.attention_skip import AttentionSkip as AttentionSkip
    from .policies.baselines.autoprune import AutoPrune as AutoPrune
    from .policies.baselines.dart import DART as DART
    from .policies.baselines.fastv import FastV as FastV
    from .policies.baselines.fitprune import FitPrune as FitPrune
    from .policies.baselines.pyramiddrop import PyramidDrop as PyramidDrop
    from .policies.baselines.random_keep import RandomKeep as RandomKeep
    from .policies.baselines.shortv import ShortV as ShortV
    from .policies.baselines.sparsevlm import SparseVLM as SparseVLM
    from .policies.baselines.uniform_keep import UniformKeep as UniformKeep
    from .policies.baselines.vtw import VTW as VTW
    from .policies.before_decoder.cdpruner import CDPruner as CDPruner
    from .policies.before_decoder.divprune import DivPrune as DivPrune
    from .policies.before_decoder.downsample import Downsample as Downsample
    from .policies.before_decoder.visionzip import VisionZip as VisionZip
    from .policies.before_decoder.visionzip import VisionZipStyle as VisionZipStyle
    from .policies.compose import chain as chain
    from .policies.fixed import ExitAt as ExitAt
    from .policies.fixed import KeepAll as KeepAll
    from .policies.fixed import RandomExit as RandomExit
    from .policies.keep_schedule import KeepSchedule as KeepSchedule
    from .policies.second_look import SecondLook as SecondLook
    from .policies.twig import Twig as Twig
    from .policies.visual_exit import VisualExit as VisualExit

    def anatomy(model: Any) -> Anatomy:
        """What was found in a model: where its decoder layers, norm, head and visual tokens are."""

    def policies() -> dict[str, str]:
        """Names of the registered policies, with one line each."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return importlib.import_module(f"lookaway.{name}")
    raise AttributeError(f"module 'lookaway' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
