"""`la.attach` and `la.reference`: what everyone calls to run a model under a policy."""

from __future__ import annotations

from typing import Any

from ..core.decision import Policy
from ..core.draft import Draft
from .attachment import Attachment
from .entry import EntryAttachment
from .reference import Reference
from .self_check import self_check

__all__ = ["attach", "reference"]


def attach(
    model: Any, policy: Policy, allow_other_model: bool = False, draft: Draft | None = None
) -> Attachment | EntryAttachment:
    """Attach a policy to a model; a context manager, and a handle with `detach()`.

    Args:
        model: any supported Hugging Face VLM, unmodified (`la.anatomy(model)` shows what is found in it).
        policy: what decides.
        allow_other_model: a policy that was made for another model (other weights, revision, vocabulary) will do, where
            depth and width of the decoder fit; what was guaranteed for its own model holds no longer.
        draft: while it is attached, `model.generate` guesses answer tokens by it and checks several in one pass:
            `la.Draft(8)`, or `la.Draft(twig)`. Without a policy: `la.attach(model, la.KeepAll(), draft=...)`. What
            cannot be drafted (batches, beams, static caches) is refused by `generate`.

    Raises:
        AttachError: a policy is attached to this model already, or it wants layers that cannot be pruned.
        ModelMismatch: the policy, or the draft's twig, was made for another model.
        SettingsError: the draft does not fit the decoder's depth.
        UnknownAnatomy, UnsupportedModel: see `la.anatomy`.
    """
    found = self_check(model)
    kind = EntryAttachment if found.only_before else Attachment
    return kind(model, policy, allow_other_model, draft)


def reference(model: Any, policy: Policy, allow_other_model: bool = False) -> Reference:
    """As `attach`, but nothing gets shorter: what the policy drops is masked out for all later layers.

    The policy sees the gathered rows that are left, exactly as under `attach`, so it decides the same. Outputs have the
    prompt's full length; `kept_columns()` tells which of them `attach` would have returned. SDPA and eager attention.

    Raises:
        UnsupportedModel: also where visual tokens may leave before the decoder only; no mask says what that does.
    """
    self_check(model).require_inside("la.reference, which masks")
    return Reference(model, policy, allow_other_model)
