"""What the card of a chain says of a guarantee that one of its parts has."""

import warnings

import pytest

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.policies import load_chain

SHOWN = {"epsilon": 0.1, "delta": 0.05, "samples": 40, "changed": 0, "bound": 0.07}
NOTHING = "**Nothing is guaranteed about this chain.** The guarantee of part"


def gates(after=None):
    """Certified gates, alone or behind another policy."""
    made = la.VisualExit(la.ExitGates(32, (1, 2, 3), width=4), 0.5)
    return (made if after is None else made.used_after(after)).with_threshold(0.5, SHOWN)


def schedule(share=0.5):
    return la.KeepSchedule((1.0, share, share, share), ranking="uniform")


@pytest.mark.parametrize(
    "parts",
    [
        lambda: (schedule(), gates()),
        lambda: (gates(), schedule()),
        lambda: (schedule(0.25), gates(schedule())),  # behind another schedule than the one it was found behind
        lambda: (schedule(), la.AttentionSkip((1,)), gates(schedule())),
        lambda: (schedule(), gates(schedule()), la.AttentionSkip((1,))),
        lambda: (gates(), gates(gates())),  # the first one's claim stays a part's
    ],
)
def test_a_part_s_guarantee_is_not_the_chain_s(parts, tmp_path):
    folder = la.chain(*parts()).save_pretrained(tmp_path / "chain")
    assert NOTHING in (folder / "README.md").read_text()


@pytest.mark.parametrize("first", [(schedule(),), (la.AttentionSkip((1,)), schedule())])
def test_gates_certified_behind_exactly_these_parts_keep_theirs(first, tmp_path):
    before = first[0] if len(first) == 1 else la.chain(*first)
    folder = la.chain(*first, gates(before)).save_pretrained(tmp_path / "chain")
    text = (folder / "README.md").read_text()
    assert NOTHING not in text
    assert f"The guarantee of part {len(first) + 1} was found behind the parts before it" in text


def test_without_a_guarantee_there_is_nothing_to_take_back():
    plain = la.VisualExit(la.ExitGates(32, (1, 2, 3), width=4), 0.5)
    assert "guarantee of part" not in la.chain(schedule(), plain).card()


@pytest.mark.parametrize(
    "used",
    [
        lambda: gates(schedule()),  # alone
        lambda: la.chain(gates(schedule())),
        lambda: la.chain(schedule(0.25), gates(schedule())),
        lambda: la.chain(schedule(), la.AttentionSkip((1,)), gates(schedule())),
        lambda: la.chain(schedule(), gates(schedule()), la.UniformKeep(0.5, layer=2)),
        lambda: la.chain(schedule(), gates()),
        lambda: la.chain(la.chain(schedule(0.25), gates(schedule())), la.AttentionSkip((1,))),
        lambda: la.SecondLook(gates(schedule()), la.KeepAll()),
    ],
)
def test_every_use_of_gates_whose_guarantee_is_of_something_else_warns(used, tmp_path):
    model = tiny("llava").model
    with pytest.warns(UserWarning, match="the guarantee of (these gates|part . of this chain) was"):
        la.attach(model, used()).detach()
    with pytest.warns(UserWarning, match="the guarantee of (these gates|part . of this chain) was"):
        load_chain([used().save_pretrained(tmp_path / "one")])  # what commands read --policy with


def test_gates_used_where_their_guarantee_was_found_do_not_warn(tmp_path):
    model = tiny("llava").model
    base = la.anatomy(model).identity
    alone = la.VisualExit(la.ExitGates(32, (1, 2, 3), width=4), 0.5, base=base)
    for number, first in enumerate(
        (schedule(), schedule().with_base(base), la.chain(la.AttentionSkip((1,)), schedule()))
    ):
        here = tmp_path / str(number)
        behind = alone.used_after(first)
        behind = behind.with_threshold(0.5, SHOWN | {"policy": behind.certified_digest()})
        folders = [first.save_pretrained(here / "first"), behind.save_pretrained(here / "gates")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole = load_chain(folders)
            la.attach(model, whole).detach()
            la.attach(model, la.chain(*map(la.load, folders))).detach()
            la.attach(model, la.load(whole.save_pretrained(here / "whole"))).detach()
