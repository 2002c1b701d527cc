"""`lookaway doctor`: what a model folder is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .common import plain_console
from .model_options import PublishedModel
from .options import AnsweredNo, argument
from .tables import show_facts


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Say what a model folder is and whether lookaway reads it, without loading weights. Exit status 1: it does not."""

    folder: str = argument()
    """Folder of a checkpoint, in its authors' layout or transformers' own."""


def run(options: Options) -> dict[str, Any]:
    from ..models.layouts.doctor import diagnose
    from ..models.layouts.json_files import read_json

    found = diagnose(options.folder, **options.published)
    if found.supported and "becomes" not in found.facts:  # transformers' own: what the anatomy knows of its kind
        found = replace(found, **_family(read_json(Path(options.folder) / "config.json")))
    found = _with_transformers(found)
    if found.supported:
        found = _with_tokens(found, options)
    show_facts({**found.facts, "supported": f"{'yes' if found.supported else 'NO'}. {found.why}"})
    if found.supported:
        plain_console().print(f"next: lookaway fit --model {options.folder} --data DATA", soft_wrap=True)
    return asdict(found) if found.supported else AnsweredNo(asdict(found))


def _with_transformers(found: Any) -> Any:
    """The same with the installed transformers, and whether it is one that this lookaway reads."""
    import transformers

    from ..anatomy.find import TRANSFORMERS, check_transformers
    from ..core.errors import UnsupportedModel

    facts = {**found.facts, "transformers": f"{transformers.__version__} is installed; {TRANSFORMERS} is needed"}
    try:
        check_transformers()
    except UnsupportedModel as error:
        return replace(found, supported=False, why=str(error), facts=facts)
    return replace(found, facts=facts)


def _with_tokens(found: Any, options: Options) -> Any:
    """The same with what the processor makes of a picture; where it lacks a package, the model cannot be loaded."""
    from ..core.errors import LookawayError
    from ..models.picture_tokens import SIZE, prompt_tokens

    try:
        tokens = prompt_tokens(options.folder, **options.published)
    except LookawayError as error:
        if isinstance(error.__cause__, ImportError):
            return replace(found, supported=False, why=f"{found.why} But its processor cannot be loaded: {error}")
        return replace(found, facts={**found.facts, "a picture": f"not known how many visual tokens: {error}"})
    said = f"{tokens.visual} visual tokens at {SIZE[0]} x {SIZE[1]}; a short question about it {tokens.text} others"
    return replace(found, facts={**found.facts, "a picture": said})


def _family(config: dict[str, Any]) -> dict[str, Any]:
    """Whether and where visual tokens can leave a model of this kind, and why not more (docs/support.md)."""
    from ..anatomy.registry import REFUSED, SUPPORT
    from ..anatomy.support import state_of
    from ..models.registration import OWN_TYPES

    model_type, vision = config.get("model_type"), config.get("vision_config")
    kinds = (model_type, vision.get("model_type") if isinstance(vision, dict) else None)
    own = next((kind for kind in kinds if kind in OWN_TYPES), None)
    reader = f"transformers reads it together with lookaway (its class {own!r})" if own else "transformers reads it"
    state = state_of(str(model_type))
    if state is None:
        return {
            "why": f"transformers reads it, where it knows {model_type!r}. It is of no family that lookaway lists: "
            "whether it is of a common pattern is proven when a policy is attached."
        }
    where, found, reason = state
    if model_type in REFUSED:
        return {"supported": False, "why": f"{REFUSED[model_type][0]}: {reason}."}
    name = SUPPORT[model_type].name if model_type in SUPPORT else model_type
    kind = f"of the family {name}" if found == "family" else f"{name!r}, found {found}"
    more = f"; not inside it, because {reason}" if reason else ""
    return {"why": f"{reader}, and it is {kind}. Visual tokens may leave {where}{more} (docs/support.md)."}
