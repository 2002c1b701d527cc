"""What the user configured: `--additional-config '{"lookaway": {...}}'`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...core.decision import Policy
from ...core.errors import SettingsError
from ...policies import load
from ...policies.baselines.autoprune import AutoPrune
from ...policies.compose import Chain, chain
from ...policies.ranked import RankedPolicy
from ...policies.second_look import SecondLook
from ...policies.visual_exit import VisualExit
from .kept_counts import before_decoder
from .static_exits import empty_from, in_two, is_static

__all__ = ["OFF", "Settings", "parts_of", "settings_of"]

OFF = "off"
"""The name by which a request asks for no policy."""
KEYS = ("policy", "policies", "default", "own_kv_groups", "allow_other_model", "unproved_cuda_graphs")


@dataclass(frozen=True)
class Settings:
    """The policies of this server."""

    policies: Mapping[str, Policy]
    """Name -> policy. A single `policy` has the name 'default'."""
    default: str
    """The name that a request without a choice gets; may be 'off'."""
    num_layers: int
    """Decoder layers of the model."""
    own_kv_groups: bool = True
    """Layers that no visual token reaches get KV cache groups of their own, which need fewer blocks."""
    allow_other_model: bool = False
    """Policies that were trained for another model of the same depth and width will do."""
    unproved_cuda_graphs: bool = False
    """Decoding steps may be CUDA graphs, which was never run on a GPU."""

    def policy(self, name: str | None) -> Policy | None:
        """The policy of this name, the default for None; None for 'off'.

        Raises:
            SettingsError: there is none of this name.
        """
        name = self.default if name is None else name
        if name != OFF and name not in self.policies:
            known = ", ".join([*map(repr, self.policies), repr(OFF)])
            raise SettingsError(f"This server has no policy {name!r}. Known: {known}.")
        return self.policies.get(name)

    def name_for(self, params: Any) -> str:
        """The policy's name that a request's sampling parameters choose (`extra_args["lookaway"]`)."""
        chosen = (getattr(params, "extra_args", None) or {}).get("lookaway")
        if chosen is not None and not isinstance(chosen, str):
            raise SettingsError(f"lookaway takes a policy's name or {OFF!r}, not {chosen!r}.")
        return self.default if chosen is None else chosen

    def before(self, name: str) -> Policy | None:
        """What shortens prompts under the policy of this name; None: nothing."""
        policy = self.policy(name)
        return None if policy is None else in_two(policy, self.num_layers)[0]

    def inside(self, name: str, shortened: bool) -> Policy | None:
        """What acts inside the decoder under the policy of this name; None: nothing.

        Args:
            shortened: the prompt was shortened before it.
        """
        policy = self.policy(name)
        return in_two(policy, self.num_layers)[1] if policy is not None and shortened else policy

    def all_static(self) -> bool:
        """Whether no policy looks at the prompt inside the decoder, where prompts can be shortened before it."""
        parts = [in_two(policy, self.num_layers)[1] for policy in self.policies.values()]
        return all(part is None or is_static(part, self.num_layers) for part in parts)

    def all_before(self) -> bool:
        """Whether no policy acts inside the decoder, where prompts can be shortened before it."""
        return all(in_two(policy, self.num_layers)[1] is None for policy in self.policies.values())

    def empty_from(self, name: str) -> int:
        """The first layer that no visual token reaches under this policy, whatever the prompt; else `num_layers`."""
        policy = self.policy(name)
        return self.num_layers if policy is None else empty_from(policy, self.num_layers)

    def exit_of(self, name: str, shortened: bool) -> int | None:
        """The layer before which all visual tokens leave inside the decoder, and none before; `num_layers`: they never
        do; None: the policy looks at the prompt."""
        policy = self.inside(name, shortened)
        if policy is None:
            return self.num_layers
        return empty_from(policy, self.num_layers) if is_static(policy, self.num_layers) else None


def settings_of(vllm_config: Any) -> Settings | None:
    """The settings in a `VllmConfig`; None where lookaway was not configured.

    Raises:
        SettingsError: an unknown key, no policy, or one that does not fit the model's depth.
        DataError: a policy's folder is missing or damaged.
    """
    given = (vllm_config.additional_config or {}).get("lookaway")
    if given is None:
        return None
    return _read(json.dumps(given), vllm_config.model_config.hf_text_config.num_hidden_layers)


@lru_cache(maxsize=8)  # the front end and, in one process with it, the worker ask for the same
def _read(document: str, num_layers: int) -> Settings:
    given = json.loads(document)
    if not isinstance(given, dict) or set(given) - set(KEYS) or ("policy" in given) == ("policies" in given):
        raise SettingsError(
            f"additional_config['lookaway'] takes the keys {', '.join(KEYS)}, and either 'policy' (a folder) or "
            f"'policies' (name -> folder), not {given!r}."
        )
    sources = given["policies"] if "policies" in given else {"default": given["policy"]}
    if not isinstance(sources, dict) or not sources or OFF in sources:
        raise SettingsError(f"'policies' maps at least one name, but not {OFF!r}, to a folder; it is {sources!r}.")
    policies = {name: _load(source) for name, source in sources.items()}
    for policy in policies.values():
        _check(policy, num_layers)
    more = {key: given[key] for key in ("own_kv_groups", "allow_other_model", "unproved_cuda_graphs") if key in given}
    settings = Settings(policies, given.get("default", next(iter(policies))), num_layers, **more)
    settings.policy(None)
    return settings


def _check(policy: Policy, num_layers: int) -> None:
    """Refuse a policy that does not fit the model's depth, or that the plugin does not carry out."""
    if isinstance(policy, SecondLook):
        _check(policy.first, num_layers)
        _check(policy.then, num_layers)
    parts = tuple(parts_of(policy))
    reason = ""
    if policy.skips(num_layers):
        reason = "skips attention layers"
    elif policy.holds(num_layers):
        reason = "freezes visual tokens in some layers, which the plugin does not carry out"
    elif policy.twig() is not None:
        reason = "ranks by a twig, whose layers the plugin does not run"
    elif any(part.renumbers() for part in parts) and not before_decoder(policy, num_layers):
        reason = "numbers tokens anew, which the plugin carries out for a single policy before the decoder only"
    elif _reads_its_notes(policy):
        reason = "reads at later layers what it noted at an earlier one, which the plugin does not keep"
    elif any(part.needs_vision() for part in parts) and not before_decoder(policy, num_layers):
        reason = "ranks by the vision tower's attention, which the plugin watches for a single policy only"
    elif _wants_plain_states(policy):
        reason = "ranks by queries and keys without their rotary phase, which vLLM does not hand over"
    if reason:
        raise SettingsError(f"{policy!r} {reason}: serve it with transformers (la.attach).")
    policy.layers(num_layers, 1)
    empty_from(policy, num_layers)


def parts_of(policy: Policy) -> Iterator[Policy]:
    """The policies that a chain or a second look is made of; any other one itself."""
    if isinstance(policy, Chain):
        for part in policy.parts:
            yield from parts_of(part)
    elif isinstance(policy, SecondLook):
        yield from parts_of(policy.first)
        yield from parts_of(policy.then)
    else:
        yield policy


def _reads_its_notes(policy: Policy) -> bool:
    return any(
        isinstance(part, AutoPrune) or (isinstance(part, VisualExit) and part.read_every > 1)
        for part in parts_of(policy)
    )


def _wants_plain_states(policy: Policy) -> bool:
    ranked = [part for part in parts_of(policy) if isinstance(part, RankedPolicy)]
    return any(part.order().name.endswith("-no-rotary") for part in ranked)


def _load(source: Any) -> Policy:
    """A folder, hub id or YAML file; or a list of them, one after the other."""
    parts = [load(part) for part in (source if isinstance(source, list) else [source])]
    return parts[0] if len(parts) == 1 else chain(*parts)
