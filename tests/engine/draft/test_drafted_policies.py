"""Every policy of the table with a draft beside it: the answer and the trace of the prompt stay what they were."""

from dataclasses import replace

import pytest
import torch
from cases import CASES

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Nothing will be dropped", "ignore:Not guaranteed")
def test_every_policy_that_ships(case):
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    options = {"do_sample": False, "max_new_tokens": 7, "min_new_tokens": 7, "suppress_tokens": [IMAGE]}
    found = []
    for draft in (None, la.Draft(3, 2, 0.0)):
        torch.manual_seed(3)
        with la.attach(model, CASES[case].make(1), draft=draft) as run:
            found.append((model.generate(**inputs, **options), run.trace))
    (plain, trace), (drafted, beside) = found
    assert torch.equal(drafted, plain)
    assert beside.checks > 0
    assert replace(beside, drafted=0, accepted=0, checks=0) == trace
