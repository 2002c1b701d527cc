"""Rankings that a family cannot give are refused at attachment, with another ranking or policy as the cure."""

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import TINY, TINY_BEFORE, tiny
from lookaway.core.errors import SettingsError, UnsupportedModel
from lookaway.policies.ranking import RANKINGS

CLS_TOWERS = {"llava", "vipllava", "paligemma", "paligemma2"}
"""Families whose tower's own attention ranks the decoder's visual tokens."""
LOOKING = [name for name, ranking in RANKINGS.items() if ranking.looks]


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("family", TINY)
def test_attention_before_the_decoder(family, name):
    """No layer ran yet; the cure is a ranking by states, and that one works."""
    example = tiny(family)
    with pytest.raises(SettingsError, match=rf"'{name}'.* choose a ranking by states: 'diversity'"):
        la.attach(example.model, la.KeepSchedule([0.5] * 4, ranking=name))
    with torch.no_grad(), la.attach(example.model, la.KeepSchedule([0.5] * 4, ranking="diversity")) as run:
        example.model(**example.inputs())
    assert sum(run.trace.visual_tokens[0]) < sum(run.trace.initial_visual_tokens)


@pytest.mark.parametrize("entries", [[0.5] * 4, [1.0, 1.0, 0.5, 0.5]])
@pytest.mark.parametrize("family", TINY_BEFORE)
def test_attention_where_tokens_may_leave_before_the_decoder_alone(family, entries):
    example = tiny(family)
    with pytest.raises(UnsupportedModel, match=r"is not possible on .*la\.CDPruner"):
        la.attach(example.model, la.KeepSchedule(entries, ranking="last-token"))


@pytest.mark.parametrize("family", [name for name in [*TINY, *TINY_BEFORE] if name not in CLS_TOWERS])
def test_the_towers_attention_where_it_says_nothing_of_the_tokens(family):
    example = tiny(family)
    with pytest.raises(UnsupportedModel, match=r"knows none in .*la\.CDPruner\(keep\), la\.DivPrune\(keep\)"):
        la.attach(example.model, la.VisionZip(0.5))
    with torch.no_grad(), la.attach(example.model, la.DivPrune(0.5)) as run:
        example.model(**example.inputs())
    assert sum(run.trace.visual_tokens[0]) < sum(run.trace.initial_visual_tokens)
