"""The table: every command on every family. A new family or command gets all its tests by one entry here."""

from __future__ import annotations

from dataclasses import dataclass

import checks
from prepared import CLASSIFIERS, FAMILIES

__all__ = ["CLASSIFIERS", "COMMANDS", "FAMILIES", "REFUSED", "ROWS", "Row"]

COMMANDS = {
    "ask": checks.ask,
    "serve": checks.serve,
    "eval": checks.evaluate,
    "report": checks.report,
    "train": checks.train,
    "calibrate": checks.calibrate,
    "train eas": checks.train_eas,
    "train twig": checks.train_twig,
    "tune": checks.tune,
    "fit": checks.fit,
    "search p-sigmoid": checks.p_sigmoid,
    "search g-search": checks.g_search,
    "search g-search bayes": checks.g_search_bayes,
    "search random": checks.random,
    "search single-layer": checks.single_layer,
    "search vtw": checks.vtw,
    "search shortv": checks.shortv,
    "search eas": checks.search_eas,
    "search compare": checks.compare,
    "analyze": checks.analyze,
    "bench": checks.bench,
}
"""Name -> what runs it in a `Workplace` and holds the result against the judge."""

REFUSED = {
    # Cohere's layers have one norm in front of attention and FFN together, so nothing can stand in for an attention.
    ("train eas", "aya_vision"): "no norm before its attention and its FFN .* so its attention cannot be skipped",
    ("search eas", "aya_vision"): "no norm before its attention and its FFN .* so its attention cannot be skipped",
    # Its decoder's routing goes from token to token beside the cache.
}
"""(command, family) -> what the error says, where the command cannot work for the family."""

CLASSIFIER = r"is not supported: it classifies and writes no answer, .* skipped from Python: .*skip_attention"
"""What every command says of a model that has no decoder (METER, ViLT)."""


@dataclass(frozen=True)
class Row:
    command: str
    family: str

    @property
    def refusal(self) -> str | None:
        if self.family in CLASSIFIERS:
            return CLASSIFIER
        return REFUSED.get((self.command, self.family))

    def __str__(self) -> str:
        return f"{self.family}-{self.command.replace(' ', '-')}"


ROWS = [Row(command, family) for family in (*FAMILIES, *CLASSIFIERS) for command in COMMANDS]
