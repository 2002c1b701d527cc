"""Tokens numbered anew where a decoder counts time, row and column (Qwen-VL, GLM-4V).

The new positions are written down here for small prompts, and the tiny models' decoders are called by hand with the
shorter prompt at the positions that `by_hand` gives, which is judged by the same small prompts.
"""

import pytest
import torch
from shared_tiny import OLD, tiny_once
from test_common import CASES  # the policies' table
from test_removal_before_decoder import called_with, shorter
from test_renumbering import GRIDS, embedded, logits_of
from test_videos import VIDEOS, inputs_of

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE, VIDEO, tiny
from lookaway.anatomy.tiny.tiled import INDICATORS
from lookaway.core.decision import Decision, Policy
from lookaway.core.errors import UnsupportedModel
from lookaway.engine.prefill.renumbering import moved_back, new_grid_positions
from lookaway.engine.replay.resume import pause

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
FAMILIES = sorted(GRIDS)
SILENT = [IMAGE, VIDEO, *INDICATORS]


class Corner(Policy):
    """Before the decoder, each first picture of a row keeps its first three tokens, a second nothing."""

    name = "corner"

    def __init__(self, anew=True, most=3):
        self.anew, self.most = anew, most

    def layers(self, num_layers, first_prunable):
        return (0,)

    def renumbers(self):
        return self.anew

    def decide(self, view):
        keep = ~view.layout.visual
        for row, spans in enumerate(view.layout.spans):
            for span in spans[:1]:
                columns = view.layout.visual[row].nonzero().flatten()[: self.most]
                keep[row, columns[: span.length]] = True
        return Decision(keep=keep)


# small prompts written down ----------------------------------------------------------------------------------------


def picture(begin, rows, columns, times=(0,)):
    return [(begin + time, begin + row, begin + col) for time in times for row in range(rows) for col in range(columns)]


def text(*places):
    return [(place,) * 3 for place in places]


ONE = text(0, 1) + picture(2, 2, 3) + text(5, 6)
TWO = text(0) + picture(1, 3, 2) + text(4) + picture(5, 2, 2) + text(7, 8)
TOUCHING = text(0) + picture(1, 2, 2) + picture(3, 2, 2) + text(5)
CLIP = text(0) + picture(1, 2, 2, times=(0, 4, 8)) + text(3, 4)
WRITTEN = {
    "all stays": (ONE, range(10), ONE, 0),
    "the first column stays": (ONE, [0, 1, 2, 5, 8, 9], [*text(0, 1), (2, 2, 2), (2, 3, 2), *text(4, 5)], 1),
    "the largest column stays": (ONE, [0, 1, 4, 8, 9], [*text(0, 1), (2, 2, 4), *text(5, 6)], 0),
    "nothing stays": (ONE, [0, 1, 8, 9], text(0, 1, 2, 3), 3),
    "the first of two loses a row": (
        TWO, [0, 1, 2, 3, 7, 8, 11, 12, 13],
        [*text(0), (1, 1, 1), (1, 1, 2), (1, 2, 1), *text(3), (4, 4, 4), (4, 5, 5), *text(6, 7)], 1,
    ),
    "both of two lose, one all": (TWO, [0, 7, 8, 12, 13], [*text(0, 1), (2, 2, 2), *text(3, 4)], 4),
    "no text between two": (TOUCHING, [0, 1, 5, 7, 9], [*text(0), (1, 1, 1), (2, 2, 2), (2, 3, 2), *text(4)], 1),
    "a video: time stays and does not count": (
        CLIP, [0, 1, 5, 9, 13, 14], [*text(0), (1, 1, 1), (5, 1, 1), (9, 1, 1), *text(2, 3)], 1,
    ),
    "a picture that is counted one by one": (text(0, 1, 2, 3, 4, 5), [0, 2, 4, 5], text(0, 1, 2, 3), 2),
    "the prompt ends with its picture": (text(0) + picture(1, 2, 3), [0, 1, 6], [*text(0), (1, 1, 1), (1, 2, 3)], 0),
    "a later turn": (text(40) + picture(41, 2, 2) + text(43), [0, 1, 5], text(40, 41, 42), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("padding", [(0, 0), (2, 0), (0, 3)])
def test_new_positions(name, padding):
    before, columns, expected, moved = WRITTEN[name]
    left, right = padding
    positions = torch.tensor([(1, 1, 1)] * left + before + [(1, 1, 1)] * right).T[:, None]
    real = torch.tensor([[False] * left + [True] * len(before) + [False] * right])
    kept = torch.zeros_like(real)
    kept[0, [left + column for column in columns]] = True
    new, shift = new_grid_positions(positions, real, kept)
    assert [tuple(token) for token in new[:, 0, kept[0]].T.tolist()] == expected
    assert shift.tolist() == [moved]
    assert by_hand(before, columns) == (expected, moved)


def test_rows_are_numbered_each_for_itself():
    positions = torch.zeros(3, 2, 14, dtype=torch.int64)
    real, kept = torch.zeros(2, 14).bool(), torch.zeros(2, 14).bool()
    for row, name in enumerate(["nothing stays", "both of two lose, one all"]):
        before, columns, *_ = WRITTEN[name]
        first = 14 - len(before)
        positions[:, row, first:], real[row, first:] = torch.tensor(before).T, True
        kept[row, [first + column for column in columns]] = True
    new, shift = new_grid_positions(positions, real, kept)
    for row, name in enumerate(["nothing stays", "both of two lose, one all"]):
        assert [tuple(token) for token in new[:, row, kept[row]].T.tolist()] == WRITTEN[name][2]
    assert shift.tolist() == [3, 4]


def test_the_channel_that_masks_are_made_by_is_not_moved():
    positions = torch.arange(8).view(1, 1, 8).expand(4, 2, 8)
    moved = moved_back({"position_ids": positions}, torch.tensor([3, 0]))["position_ids"]
    assert torch.equal(moved[0], positions[0])
    assert torch.equal(moved[1:, 0], positions[1:, 0] - 3)
    assert torch.equal(moved[1:, 1], positions[1:, 1])


def by_hand(before, columns):
    """(the positions of the columns that stay, how far what comes behind is moved back), a token at a time."""
    kept, place, new, edge = set(columns), before[0][1], [], None
    begin = base = place
    for column, (time, row, col) in enumerate(before):
        if edge is None or min(row, col) > edge:  # behind all rows and columns so far: a text token or a picture
            begin, base, edge = place, row, max(row, col)
        edge = max(edge, row, col)
        if column in kept:
            new.append((begin + time - base, begin + row - base, begin + col - base))
            place = max(place, new[-1][1] + 1, new[-1][2] + 1)
    return new, max(before[-1][1:]) + 1 - place


# tiny models ---------------------------------------------------------------------------------------------------------


def at_new_positions(kwargs, row, columns):
    """The decoder's arguments for one row, on some of its columns, numbered anew; and the place of the next token."""
    cut = shorter(kwargs, row, columns)
    every = kwargs["position_ids"][-3:].expand(-1, len(kwargs["inputs_embeds"]), -1)[:, row].T.tolist()
    real = [c for c in range(len(every)) if c in set(columns.tolist()) or c in rows_own(kwargs, row)]
    order = {column: number for number, column in enumerate(real)}
    new, moved = by_hand([tuple(every[c]) for c in real], [order[c] for c in columns.tolist()])
    return {**cut, "position_ids": torch.tensor(new).T[:, None]}, max(every[real[-1]][1:]) + 1 - moved


def rows_own(kwargs, row):
    return set(kwargs["own"][row].nonzero().flatten().tolist())


def calls(model, inputs):
    kwargs = called_with(model, inputs)
    return {**kwargs, "own": inputs["attention_mask"].bool()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", ["left_padded", "right_padded"])
def test_is_the_shorter_prompt_at_new_positions(family, batch):
    example = tiny_once(family)
    model, anatomy, inputs = example.model, anatomy_of(example.model), example.inputs(batch)
    kwargs = calls(model, inputs)
    with torch.no_grad():
        with la.attach(model, Corner()) as run:
            found = model(**inputs).logits
            index, valid = run.kept_columns()
        with la.attach(model, Corner(anew=False)):
            others = model(**inputs).logits
    assert (found - others)[valid].abs().max() > 1e-3  # positions matter to this model
    for row in range(4):
        cut, _ = at_new_positions(kwargs, row, index[row, valid[row]])
        with torch.no_grad():
            out = anatomy.language_model(**cut)
        torch.testing.assert_close(
            found[row, valid[row]], logits_of(model, anatomy, out.last_hidden_state)[0], **TOLERANCE
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", ["left_padded", "video"])
def test_generation_goes_on_behind_the_shorter_prompt(family, batch):
    """Greedy answers against the decoder called by hand, a row and a token at a time."""
    example = tiny_once(family)
    model, anatomy = example.model, anatomy_of(example.model)
    inputs = example.inputs(batch) if batch != "video" else video_of(example, family)
    kwargs = calls(model, inputs)
    with la.attach(model, Corner()) as run:
        out = model.generate(
            **inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True,
            output_logits=True, suppress_tokens=SILENT,
        )  # fmt: skip
    index, valid = run.kept_columns()
    said = out.sequences[:, inputs["input_ids"].shape[1] :]
    decoder = anatomy.language_model
    for row in range(len(said)):
        cut, place = at_new_positions(kwargs, row, index[row, valid[row]])
        with torch.no_grad():
            past = decoder(**cut)
            for step in range(5):
                logits = logits_of(model, anatomy, past.last_hidden_state[:, -1])[0]
                torch.testing.assert_close(out.logits[step][row], logits, **TOLERANCE)
                past = decoder(
                    inputs_embeds=embedded(decoder, said[row : row + 1, step : step + 1]),
                    past_key_values=past.past_key_values, position_ids=torch.full((3, 1, 1), place + step),
                )  # fmt: skip


def video_of(example, family):
    name = family if family in VIDEOS else family.removesuffix("_moe")
    return inputs_of(example, name, "mixed" if family != "glm4v" else "single")[0]


POLICIES = {
    "corner": lambda: Corner(),
    "corner-then-exits": lambda: la.chain(Corner(), la.ExitAt([2, None, 3, None])),
    **{name: CASES[name].make for name in ("cdpruner-renumber", "downsample-renumber-visual-exit")},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", POLICIES)
def test_equals_the_reference(family, attention, name):
    example = tiny_once(family, attn_implementation=attention)
    inputs = example.inputs("left_padded")
    policy = POLICIES[name]() if name.startswith("corner") else POLICIES[name](4)
    with torch.no_grad():
        with la.attach(example.model, policy) as run:
            found = example.model(**inputs).logits
            index, valid = run.kept_columns()
        with la.reference(example.model, policy) as masking:
            expected = example.model(**inputs).logits.gather(1, index[..., None].expand_as(found))
    assert run.trace.visual_tokens == masking.trace.visual_tokens
    torch.testing.assert_close(found[valid], expected[valid], **TOLERANCE)


@pytest.mark.parametrize("way", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"use_cache": False}])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v"])
def test_ways_to_generate_equal_the_reference(family, way):
    if OLD and "num_beams" in way:
        pytest.skip("transformers 5.16 cannot repeat the pictures of such a batch for its beams, attached or not")
    example = tiny_once(family)
    inputs = example.inputs("left_padded")
    found = []
    for how in (la.attach, la.reference):
        with how(example.model, la.chain(Corner(), la.ExitAt(3))):
            found.append(example.model.generate(**inputs, do_sample=False, max_new_tokens=6, **way))
    assert torch.equal(*found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_turn_with_a_picture_goes_on_from_the_new_positions(family):
    """Two turns with a picture each, the second at positions of the whole conversation, against the decoder called by
    hand with both shorter prompts in a row; then a token of text."""
    example = tiny(family)
    model, anatomy, inputs = example.model, anatomy_of(example.model), example.inputs("single")
    length = inputs["input_ids"].shape[1]
    kwargs = calls(model, inputs)
    once = kwargs["position_ids"][-3:]
    again = once + once.max() + 1
    plain = torch.arange(length, 2 * length)[None, None]
    with torch.no_grad(), la.attach(model, Corner()) as run:
        first = model(**inputs, use_cache=True)
        one, _ = run.kept_columns()
        more = {
            "attention_mask": torch.ones(1, 2 * length, dtype=torch.long), "position_ids": torch.cat([plain, again]),
        }  # fmt: skip
        second = model(**{**inputs, **more}, past_key_values=first.past_key_values)
        two, _ = run.kept_columns()
        next_place = again.max() + 1
        word = model(
            input_ids=torch.tensor([[17]]), past_key_values=second.past_key_values,
            position_ids=torch.cat([torch.full((1, 1, 1), 2 * length), next_place.expand(3, 1, 1)]),
        )  # fmt: skip
    whole = {
        "inputs_embeds": torch.cat([kwargs["inputs_embeds"]] * 2, 1), "position_ids": torch.cat([once, again], -1),
        "own": torch.ones(1, 2 * length).bool(),
    }  # fmt: skip
    if kwargs.get("deepstack_visual_embeds") is not None:
        whole["visual_pos_masks"] = torch.cat([kwargs["visual_pos_masks"]] * 2, 1)
        whole["deepstack_visual_embeds"] = [torch.cat([part] * 2) for part in kwargs["deepstack_visual_embeds"]]
    cut, place = at_new_positions(whole, 0, torch.cat([one[0], length + two[0]]))
    with torch.no_grad():
        out = anatomy.language_model(**cut)
        logits = logits_of(model, anatomy, out.last_hidden_state)
        torch.testing.assert_close(second.logits, logits[:, one.shape[1] :], **TOLERANCE)
        behind = anatomy.language_model(
            inputs_embeds=embedded(anatomy.language_model, torch.tensor([[17]])),
            past_key_values=out.past_key_values, position_ids=torch.full((3, 1, 1), place),
        )  # fmt: skip
    torch.testing.assert_close(word.logits, logits_of(model, anatomy, behind.last_hidden_state), **TOLERANCE)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_run_that_goes_on_from_stored_states_numbers_anew_too(family):
    example = tiny_once(family)
    inputs = example.inputs("left_padded")
    last = torch.full((4, 1), inputs["input_ids"].shape[1] - 1)
    policy = la.chain(Corner(), la.ExitAt([2, None, 3, None]))
    with torch.no_grad():
        paused = pause(example.model, inputs, 0)[0]
        resumed = paused.run(policy, until=2).run(policy).logits(last)[:, 0]
        with la.attach(example.model, policy):
            live = example.model(**inputs).logits[:, -1]
    torch.testing.assert_close(resumed, live, **TOLERANCE)


def test_gradient_checkpointing_runs_layers_again_at_the_new_positions():
    gradients = []
    for checkpointing in (False, True):
        model, inputs = tiny("qwen2_5_vl").model, tiny("qwen2_5_vl").inputs("left_padded")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with la.attach(model, Corner()):
            model(**inputs, use_cache=False).logits.float().pow(2).mean().backward()
        gradients.append(anatomy_of(model).layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(*gradients, **TOLERANCE)


@pytest.mark.parametrize("how", [la.attach, la.reference])
def test_prompts_without_positions_on_a_grid_are_refused(how):
    example = tiny("qwen2_5_vl")
    inputs = example.inputs("single")
    bare = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    refused = pytest.raises(UnsupportedModel, match=r"time, row and column.*positions='original'")
    with how(example.model, Corner()), refused:
        example.model(**bare)


def test_texts_that_do_not_stand_behind_their_picture_are_refused():
    example = tiny("qwen2_5_vl")
    inputs = example.inputs("single")
    positions = called_with(example.model, inputs)["position_ids"].clone()
    positions[:, :, -2:] = 1
    with la.attach(example.model, Corner()), pytest.raises(UnsupportedModel, match="each text stands behind"):
        example.model(**inputs, position_ids=positions)
