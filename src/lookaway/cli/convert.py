"""`lookaway convert`: a published checkpoint -> an ordinary transformers folder."""

from __future__ import annotations

from dataclasses import dataclass

from .common import plain_console
from .model_options import PublishedModel
from .options import argument


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Write a checkpoint that is in its authors' layout (LLaVA, VILA, Eagle, InternVL) as a transformers folder."""

    source: str = argument()
    """Folder or hub id of the checkpoint."""
    target: str = argument()
    """Folder to write; must not exist yet. An interrupted conversion goes on where it stopped."""


def run(options: Options) -> dict[str, str]:
    from ..core.errors import UnsupportedModel
    from ..models.layouts.convert import convert
    from ..models.layouts.detection import plan_for
    from ..models.layouts.fetching import published_folder
    from .progress import progress

    folder = published_folder(options.source)
    plan = plan_for(folder, **options.published) if folder is not None else None
    if plan is None:
        raise UnsupportedModel(
            f"{options.source} is in none of the published layouts that need converting. `lookaway doctor` says what a "
            "folder is; a transformers folder is used as it is."
        )
    with progress(f"converting {plan.layout}, per cent", 100) as advance:
        target = convert(
            plan, options.target, lambda done, total: advance(100 * done // total - 100 * (done - 1) // total)
        )
    plain_console().print(f"{plan.model_class.__name__} is in {target}", soft_wrap=True)
    return {"layout": plan.layout, "model": plan.model_class.__name__, "folder": str(target)}
