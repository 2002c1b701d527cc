"""The space of `lookaway fit` as a file, gates trained for it, and the best policy so far as a folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.base_model import BaseModel
    from ..core.decision import Policy
    from ..core.record import Sample
    from ..search.fit.choices import Choice

__all__ = ["BEST", "SPACE", "gates_behind", "read_space", "save_best", "write_space"]

SPACE = "space.yaml"
BEST = "best-so-far"


def _keys() -> list[str]:
    from ..search.fit.options import Space

    return [*(field.name for field in fields(Space)), "candidate"]


def read_space(options: Any) -> Any:
    """The options with the space of --space in them.

    Raises:
        DataError: the file cannot be read, or has keys that are none of a space.
        SettingsError: a flag says something about the space too.
    """
    from ..core.errors import DataError, SettingsError
    from .options import from_mapping, load_config

    if options.space is None:
        return options
    kind = type(options)
    values = load_config(options.space, kind)
    if strange := [key for key in values if key not in _keys()]:
        raise DataError(f"{options.space}: {strange[0]!r} is nothing of a space. Known: {', '.join(_keys())}.")
    defaults = {field.name: field.default for field in fields(kind)}
    given = [key for key in _keys() if getattr(options, key) != defaults[key]]
    if given:
        raise SettingsError(
            f"--{given[0].replace('_', '-')} and --space {options.space} both say what is tried. Put it into the file, "
            "or leave --space out."
        )
    read = from_mapping(kind, values)
    return replace(options, **{key: getattr(read, key) for key in values})


def write_space(options: Any) -> None:
    """Keep the whole space beside the result, as --space takes it; policies of one's own by their full paths."""
    from pathlib import Path

    import yaml

    from ..core.files import write_text

    found = {key: getattr(options, key) for key in _keys()}
    found["candidate"] = [",".join(_full(part) for part in path.split(",")) for path in options.candidate]
    plain = {key: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
             for key, value in found.items()}  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(Path(options.out) / SPACE, yaml.safe_dump(plain, sort_keys=False, default_flow_style=None))


def _full(path: str) -> str:
    from pathlib import Path

    return str(Path(path).resolve()) if Path(path).exists() else path


def save_best(console: Any, options: Any, base: BaseModel, choice: Choice, policy: Policy, unit: str) -> None:
    """Say which policy is the best so far, and keep it as a folder that can be used; its card says that nothing is
    certified. `unit`: what its share is of."""
    from ..core.files import held, write_text

    kept = copy.copy(policy)
    object.__setattr__(kept, "base", base)
    note = (
        f"**Not certified.** The best policy that `lookaway fit` had seen when it was written: {choice.changed} of "
        f"{len(choice.same)} answers changed on samples that it was chosen on. The same command goes on from here.\n\n"
    )
    with held(options.out):  # other workers may keep theirs there
        folder = kept.save_pretrained(options.out / BEST)
        card = folder / "README.md"
        head, mark, body = card.read_text(encoding="utf-8").partition("\n# ")
        write_text(card, f"{head}{mark}{body}" if not mark else f"{head}\n{note}# {body}")
    console.print(
        f"  best so far (not certified, {folder}): {choice.name}: {choice.share:.1%} of {unit}, "
        f"{len(choice.same) - choice.changed} of {len(choice.same)} answers the same",
        soft_wrap=True,
    )


def gates_behind(options: Any, model: Any, processor: Any, samples: Sequence[Sample]) -> dict[str, Policy]:
    """Exit gates trained on the search split behind reductions, chained to them, each at several thresholds.

    They are trained once and kept in the folder of the fit. The gates have seen the samples that they are chosen on, so
    they look better there than they are; the certificate is of other samples.
    """
    from ..anatomy.find import anatomy_of
    from ..core.processes import processes
    from ..policies import load
    from ..policies.compose import chain
    from ..policies.keep_schedule import KeepSchedule
    from ..policies.visual_exit import VisualExit
    from ..search.fit.candidates import exact
    from ..training.exit_labels import LabelOptions, image_names, make_exit_table
    from ..training.gate_options import GateOptions
    from ..training.gate_training import train_gates
    from .common import cache_folder
    from .progress import progress

    anatomy, group = anatomy_of(model), processes()
    found: dict[str, Policy] = {}
    for share in options.gates_behind_shares:
        layer, ranking = options.reduce_before[0], options.rankings[0]
        after = KeepSchedule.from_steps({layer: share}, anatomy.num_layers, ranking=ranking)
        folder = options.out / "gates-behind" / exact(share)
        if group.first((folder / "config.json").exists):
            gates = load(folder)
        else:
            labels = LabelOptions(target="own", batch_size=options.batch_size, max_new_tokens=options.max_new_tokens)
            with progress(f"labels behind {share:g} of the tokens", len(samples)) as advance:
                table = make_exit_table(model, processor, samples, labels, cache_folder(), advance, after)
            with group.first_in_turn():
                if group.is_first:
                    trained = train_gates(table, GateOptions(seed=options.seed), image_names(samples))
                    gates = VisualExit(
                        trained.gates, trained.threshold, base=anatomy.identity, training=trained.summary
                    ).used_after(after)
                    gates.save_pretrained(folder)
                else:
                    gates = load(folder)
        assert isinstance(gates, VisualExit)
        own = gates.threshold if isinstance(gates.threshold, float) else 0.5
        for threshold in sorted({0.5, 0.7, 0.9, own}):
            name = f"gates-behind/{ranking}-{layer}-{exact(share)}-above-{exact(threshold)}"
            found[name] = chain(after, gates.with_threshold(threshold))
    return found
