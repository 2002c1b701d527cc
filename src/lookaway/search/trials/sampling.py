"""The sampler of a search: a Gaussian process (Optuna's GPSampler), made afresh with its own seed at each trial.

A sampler that lives through a whole search carries a random state that a kill loses. Here a trial's suggestion follows
from the seed, its key and the trials that are finished, and from nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ...core.errors import LookawayError
from .storage import optuna

__all__ = ["seed_of", "seeded_sampler"]


def seed_of(seed: int, *names: str) -> int:
    """A seed in [0, 2^31) of its own for each combination of names."""
    text = "/".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def seeded_sampler(seed: int, group: str) -> Any:
    """An Optuna sampler for the trials of one group."""
    package = optuna()

    class Seeded(package.samplers.BaseSampler):  # type: ignore[name-defined]
        """Asks a fresh GPSampler, seeded by the trial's key; trials whose parameters are all fixed ask nobody."""

        def _own(self, trial: Any) -> Any:
            return package.samplers.GPSampler(
                seed=seed_of(seed, group, str(trial.user_attrs.get("key", trial.number))), n_startup_trials=1,
                deterministic_objective=True, warn_independent_sampling=False,
            )  # fmt: skip

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            if trial.system_attrs.get("fixed_params"):
                return {}
            return self._own(trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._own(trial).sample_relative(study, trial, search_space) if search_space else {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            # Bayesian optimisation was asked for; a random draw must not stand in for it unseen.
            raise LookawayError(
                f"Parameter {param_name!r} of trial {trial.user_attrs.get('key')!r} cannot be suggested: no finished "
                "trial of this group holds it yet. Let the first jobs fix their parameters."
            )

    return Seeded()
