"""A policy's saved settings -> the words of the page. Pure functions on what records hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["policy_words"]

TITLES = {
    "autoprune": "AutoPrune", "cdpruner": "CDPruner", "dart": "DART", "divprune": "DivPrune", "fastv": "FastV",
    "pyramiddrop": "PyramidDrop", "random-keep": "random tokens", "shortv": "ShortV", "sparsevlm": "SparseVLM",
    "uniform-keep": "evenly spaced tokens", "visionzip": "VisionZip",
}  # fmt: skip
"""Registered name -> the name that papers and tables use."""


def policy_words(policy: Mapping[str, Any]) -> str:
    """{'name' or 'policy': ..., 'config': ...} -> 'keep 10 % of the visual tokens from layer 2 on'."""
    name = policy.get("name") or policy.get("policy") or "policy"
    config = policy.get("config") or {}
    if name == "second-look":
        return (
            f"{policy_words(config['first'])}; where the first answer token's {config['confidence']} is below "
            f"{config['threshold']:g}, run again: {policy_words(config['then'])}"
        )
    if name == "chain":
        return ", then ".join(policy_words(part) for part in config["parts"])
    if name == "keep-schedule":
        return _schedule_words(config)
    if name == "exit-at":
        return f"all visual tokens leave before layer {config['layer']}"
    if name == "downsample":
        return f"each cell of {config['factor']} x {config['factor']} visual tokens becomes one, before the decoder"
    if name == "fastv":
        return f"{_amount(1.0 - config['ratio'])} of the visual tokens stay from layer {config['layer']} on (FastV)"
    if name == "keep-all":
        return "keep all visual tokens"
    title, keep = TITLES.get(name, name), config.get("keep")
    if name in TITLES and isinstance(keep, int | float):  # one share, chosen by this method
        more = _settings({key: value for key, value in config.items() if key not in ("keep", "layer")})
        return f"{_keep_words(keep, config.get('layer', 0))} ({', '.join([title, *more])})"
    settings = ", ".join(_settings(config))
    return f"{title} ({settings})" if settings else title


def _keep_words(share: float, layer: int) -> str:
    where = f"from layer {layer} on" if layer else "before the decoder"
    return f"keep {_amount(share)} of the visual tokens {where}"


def _settings(config: Mapping[str, Any]) -> list[str]:
    """['pivots 4', ...]; positions only where they are not the original ones."""
    shown = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
    if shown.get("positions") == "original":
        del shown["positions"]
    return [f"{key} {value}" for key, value in shown.items()]


def _schedule_words(config: Mapping[str, Any]) -> str:
    keep = config["keep"]
    steps = [(layer, now) for layer, now in enumerate(keep) if now != ([1.0, *keep])[layer]]
    if not steps:
        return "keep all visual tokens"
    if len(steps) > 4:
        return f"keep {_amount(keep[0])} of the visual tokens at first and {_amount(keep[-1])} at last, layer by layer"
    how = "" if config.get("ranking") in (None, "last-token") else f" (chosen by {config['ranking']})"
    parts = [
        _keep_words(now, layer) if place == 0 else f"{_amount(now)} from layer {layer} on"
        for place, (layer, now) in enumerate(steps)
    ]
    return ", ".join(parts) + how


def _amount(value: float) -> str:
    if isinstance(value, int) and value > 1:
        return str(value)
    return "none" if value == 0 else f"{value:.2g}" if value > 1 else f"{100 * value:.3g} %"
