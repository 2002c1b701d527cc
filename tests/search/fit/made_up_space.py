"""A made-up model for `fit`: samples that need a share of their visual tokens, and say roughly how sure they are."""

import numpy as np

from lookaway.core.cost import DecoderShape
from lookaway.policies.fixed import ExitAt
from lookaway.search.fit.outcomes import Outcomes

LAYERS, VISUAL, TEXT = 10, 40, 10
SHAPE = DecoderShape(LAYERS, 8, 16, 2, 1, 4, 50)


class Anatomy:
    num_layers, first_prunable_layer, has_windows, shape, vision, only_before = LAYERS, 1, False, SHAPE, None, None

    @staticmethod
    def require_inside(what):
        """This decoder may be pruned inside."""


class Runs:
    """What `SampleRuns` is to a fit: an answer stays where the share that a policy leaves is at least the need."""

    second_look_from = 0

    def __init__(self, need, sure, log=None):
        self.need, self.sure, self.log = np.asarray(need), np.asarray(sure), [] if log is None else log
        self.full = self._of(np.ones(LAYERS))

    def outcomes(self, policy):
        self.log.append((policy, len(self.need)))
        if isinstance(policy, ExitAt):
            return self._of(np.array([1.0] * policy.layer + [0.0] * (LAYERS - policy.layer)))
        return self._of(np.array(policy.entries(LAYERS), dtype=float))

    def _of(self, shares):
        """A layer sees at most what the ones before it left; what counts for the answer is what the middle sees."""
        visual = np.tile(np.round(VISUAL * shares).astype(int), (len(self.need), 1))
        return Outcomes.of_layers(self.need <= shares[5], self.sure, visual, np.full(len(self.need), TEXT))

    def close(self):
        pass


def population(draw, samples):
    """Most samples need little; the confidence tells exactly who needs more."""
    need = draw.choice([0.05, 0.4], samples, p=[0.8, 0.2])
    return need, np.where(need < 0.1, 0.99, 0.6)
