"""What a fit for a speed-up measures before its search, on families of every kind: both kinds of removal, and one."""

import pytest
import torch

import lookaway as la
from lookaway.models.loading import load_model
from lookaway.search.fit.options import FitOptions
from lookaway.search.fit.reach import boldest, measure_reach


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3", "lfm2_vl"])
def test_a_full_batch_its_tower_and_the_boldest_policies_are_measured(family, model_folder_of, samples):
    model, processor = load_model(model_folder_of(family), device="cpu")
    before, seen = dict(vars(la.anatomy(model).backbone)), samples[:2]
    with torch.no_grad():
        found = measure_reach(model, processor, seen, FitOptions(speedup=2.0, reduce_before=(1,)), 2, 1)
    assert found.seconds > 0
    assert 0 < found.vision_tower < 1
    assert found.speedup > 0
    assert found.boldest in boldest(la.anatomy(model), FitOptions(reduce_before=(1,)))
    assert vars(la.anatomy(model).backbone).keys() == before.keys()  # what was timed is as it was


def test_the_boldest_policies_are_those_that_the_methods_allow(model_folder_of):
    inside = la.anatomy(load_model(model_folder_of("llava"), device="cpu")[0])
    assert list(boldest(inside, FitOptions(methods=("before-decoder",), before_shares=(0.3, 0.1)))) == [
        "10% of the visual tokens enter the decoder"
    ]
    assert len(boldest(inside, FitOptions())) == 3
    before = la.anatomy(load_model(model_folder_of("lfm2_vl"), device="cpu")[0])
    assert len(boldest(before, FitOptions(methods=("before-decoder",)))) == 1
