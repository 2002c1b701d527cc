"""What is each method's own that chooses before the decoder: its formula against slow loops and hand-computed cases."""

import math

import pytest
import torch
from test_common import view_of

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.grids import with_grids
from lookaway.anatomy.tiny import IMAGE, VIDEO, tiny
from lookaway.core.decision import LayerView
from lookaway.core.errors import SettingsError
from lookaway.core.layout import TokenLayout
from lookaway.core.vision_inputs import attention_received
from lookaway.engine.observe.vision_capture import VisionCapture
from lookaway.policies.baselines.dart import least_alike_each
from lookaway.policies.before_decoder.cdpruner import shared_counts
from lookaway.policies.before_decoder.downsample import cells_of
from lookaway.policies.before_decoder.pictures import pictures_of
from lookaway.policies.before_decoder.visionzip import merge_into_targets
from lookaway.policies.ranking import RANKINGS, Wanted, keep_best
from lookaway.policies.ranking.conditional import greedy_determinant, min_max

COUNTS = (3, 4, 0, 2)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


class TestConditionalDiversity:
    def test_each_step_takes_what_makes_the_determinant_largest(self):
        view = view_of(0)
        scores = RANKINGS["conditional-diversity"].score(view, Wanted(COUNTS))
        for row in (0, 1, 3):
            states, visual = unit(view.hidden[row].double()), view.layout.visual[row].nonzero().flatten().tolist()
            question = [s for s in view.layout.text[row].nonzero().flatten().tolist() if s > visual[0]]
            likeness = torch.stack([states[s] @ states[question].mean(0) for s in visual])
            relevance = (likeness - likeness.min()) / (likeness.max() - likeness.min())
            weighed = states[visual] * relevance[:, None]
            kernel = weighed @ weighed.T
            chosen = []
            for _ in range(max(COUNTS)):
                others = [i for i in range(len(visual)) if i not in chosen]
                chosen.append(max(others, key=lambda i: float(torch.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
            order = scores[row, visual].argsort(descending=True, stable=True).tolist()
            assert order[: max(COUNTS)] == chosen
            assert scores[row, ~view.layout.visual[row]].isinf().all()

    def test_by_hand(self):
        """x1 = x2 = (1, 0), x3 = (0, 1), relevance 1, .9, .5: first x1, then x3, which is new, before its double."""
        states = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
        order = greedy_determinant(states, torch.tensor([[1.0, 0.9, 0.5]]), torch.ones(1, 3, dtype=torch.bool), 3)
        assert order.tolist() == [[0.0, -2.0, -1.0]]
        relevant = greedy_determinant(states, torch.tensor([[0.1, 0.1, 0.0]]), torch.ones(1, 3, dtype=torch.bool), 1)
        assert relevant.tolist() == [[0.0, -math.inf, -math.inf]]

    def test_more_tokens_than_directions_are_all_taken_once(self):
        states = torch.ones(2, 5, 1)
        allowed = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
        order = greedy_determinant(states, torch.ones(2, 5), allowed, 5)
        assert sorted(order[0].tolist()) == [-4.0, -3.0, -2.0, -1.0, 0.0]
        assert order[1, :3].tolist() == [0.0, -1.0, -2.0]
        assert order[1, 3:].isinf().all()

    def test_relevance_spans_zero_to_one_among_the_visual_tokens_alone(self):
        among = torch.tensor([[True, True, True, False], [True, True, False, False]])
        scaled = min_max(torch.tensor([[2.0, 4, 3, 9], [5, 5, 1, 7]]), among)
        assert scaled[0, :3].tolist() == [0.0, 1.0, 0.5]
        assert scaled[1, :2].tolist() == [1.0, 1.0]  # all alike: diversity alone decides


class TestSeveralPicturesOfCDPruner:
    def test_a_count_is_shared_by_the_pictures_tokens(self):
        assert shared_counts(3, [2, 4]) == [1, 2]
        assert shared_counts(4, [2, 2, 2]) == [2, 1, 1]  # of equal remainders the first
        assert shared_counts(5, [1, 9]) == [1, 4]
        assert shared_counts(0, [3]) == [0]

    def test_by_hand(self):
        """Picture 1 is (1, 0), (1, 0) and picture 2 (1, 0), (0, 1); the question is (1, 0).

        One choice over both pictures takes the first token, and then has no more of volume: all others are its doubles
        or as unlike the question as can be. Picture by picture, each keeps its first.
        """
        hidden = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0]]])
        visual = torch.tensor([[True, True, True, True, False]])
        layout = TokenLayout.from_masks(visual, grid=(1, 2))
        view = LayerView(0, 4, layout, hidden, layout.visual_counts)
        assert la.CDPruner(2).decide(view).keep.tolist() == [[True, False, True, False, True]]
        assert la.CDPruner(0.5).decide(view).keep.tolist() == [[True, False, True, False, True]]
        together = RANKINGS["conditional-diversity"].score(view, Wanted((2,)))
        assert keep_best(view, together, torch.tensor([2])).tolist() == [[True, True, False, False, True]]

    def test_relevance_is_scaled_over_all_pictures(self):
        """Picture 2 alone holds what the question is about, and its best counts as 1; picture 1's as 0 and .5."""
        half = 0.5**0.5
        hidden = torch.tensor([[[0.0, 1], [half, half], [1, 0], [0.9, 0.19**0.5], [1, 0]]])
        visual = torch.tensor([[True, True, True, True, False]])
        layout = TokenLayout.from_masks(visual, grid=(1, 2))
        view = LayerView(0, 4, layout, hidden, layout.visual_counts)
        # By itself picture 1 would have relevance 0 and 1, and picture 2 would have 1 and 0.
        assert la.CDPruner(2).decide(view).keep.tolist() == [[False, True, True, False, True]]

    def test_one_picture_is_the_plain_choice(self):
        view = view_of(0)
        plain = keep_best(
            view, RANKINGS["conditional-diversity"].score(view, Wanted((3, 3, 0, 3))), torch.tensor([3, 3, 0, 3])
        )
        single = [row for row, spans in enumerate(view.layout.spans) if len(spans) == 1]
        assert single
        for row in single:
            assert la.CDPruner(3).decide(view).keep[row].tolist() == plain[row].tolist()


class TestVisionZip:
    def test_by_hand(self):
        """Two dominant (1, 4); of 0, 2, 3, 5 the targets are 0 and 3; 2 is like 3 by its key, 5 like 0."""
        values = torch.arange(6.0)[None, :, None]
        attention = torch.tensor([[0.1, 0.9, 0.2, 0.0, 0.8, 0.1]])
        keys = torch.tensor([[[1.0, 0], [5, 5], [0, 1], [0, 1], [5, 5], [1, 0]]])
        real = torch.ones(1, 6, dtype=torch.bool)
        stays, merged = merge_into_targets(values, keys, attention, real, [2], [2])
        assert stays.tolist() == [[True, True, False, True, True, False]]
        assert merged[0, stays[0], 0].tolist() == [(0 + 5) / 2, 1.0, (3 + 2) / 2, 4.0]

    @pytest.mark.parametrize("dominant", [0.0, 0.5, 1.0])
    def test_is_the_slow_loop(self, dominant):
        view = view_of(0)
        pictures = pictures_of(view.layout)
        policy = la.VisionZip(4, dominant=dominant)
        decision = policy.decide(view)
        assert len(pictures.lengths) == 3  # one row has no picture
        for row, slots in zip(pictures.rows.tolist(), pictures.slots.tolist(), strict=True):
            count = round(dominant * 4)
            best = sorted(slots, key=lambda s: -float(view.vision.attention[row, s]))[:count]
            rest = [s for s in slots if s not in best]
            spaced = 4 - count
            targets = rest[:: max(len(rest) // spaced, 1)][:spaced] if spaced else []
            keys = unit(view.vision.keys[row])
            members = {target: [target] for target in targets}
            for slot in rest:
                if targets and slot not in targets:
                    members[max(targets, key=lambda t: float(keys[t] @ keys[slot]))].append(slot)
            assert [s for s in slots if decision.keep[row, s]] == sorted(best + targets)
            for slot in best:
                assert torch.equal(decision.values[row, slot], view.hidden[row, slot])
            for target, those in members.items():
                torch.testing.assert_close(decision.values[row, target], view.hidden[row, those].mean(0))

    @pytest.mark.parametrize("family", ["llava", "vipllava", "paligemma"])
    def test_its_attention_is_what_the_tower_itself_reports(self, family):
        example = tiny(family, attn_implementation="eager")
        anatomy, inputs = anatomy_of(example.model), example.inputs("left_padded")
        layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
        tower = example.model.model.vision_tower
        capture = VisionCapture(anatomy, True)
        with torch.no_grad():
            capture.begin(inputs)
            maps = tower(inputs["pixel_values"], output_attentions=True).attentions
            found = capture.take(layout)
        capture.remove()
        layer = {"llava": -2, "vipllava": -1, "paligemma": -1}[family]
        weights = maps[layer].mean(1)  # [N, P, P]
        expected = weights.mean(1) if family == "paligemma" else weights[:, 0, 1:]
        torch.testing.assert_close(found.attention[layout.visual], expected.flatten())
        assert not found.attention[~layout.visual].any()
        with torch.no_grad():  # and nothing is seen any more
            tower(inputs["pixel_values"])
        with pytest.raises(la.LookawayError, match="made 0 tokens"):
            capture.take(layout)

    def test_attention_of_many_tokens_is_taken_in_parts(self, monkeypatch):
        draw = torch.Generator().manual_seed(0)
        queries, keys = (torch.randn(2, 3, 10, 4, generator=draw) for _ in range(2))
        whole = (queries @ keys.transpose(2, 3) * 0.5).softmax(-1).mean(1)
        monkeypatch.setattr("lookaway.core.vision_inputs.CHUNK", 3)
        torch.testing.assert_close(attention_received(queries, keys, 0.5, False), whole.mean(1))
        torch.testing.assert_close(attention_received(queries, keys, 0.5, True), whole[:, 0, 1:])


class TestDownsample:
    def test_cells_by_hand(self):
        cell, middle = cells_of((3, 4), 2)
        assert cell.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]
        assert middle.nonzero().flatten().tolist() == [5, 7, 9, 11]

    def test_a_token_is_the_mean_of_its_cell(self):
        view = view_of(0)  # a grid of 2 x 3
        decision = la.Downsample(2).decide(view)
        for row in (0, 1, 3):
            slots = view.layout.visual[row].nonzero().flatten().tolist()
            assert [s for s in slots if decision.keep[row, s]] == [slots[4], slots[5]]
            for slot, cell in ((4, [0, 1, 3, 4]), (5, [2, 5])):
                mean = view.hidden[row, [slots[i] for i in cell]].mean(0)
                torch.testing.assert_close(decision.values[row, slots[slot]], mean)

    @pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
    def test_pictures_of_their_own_size_are_pooled_each_in_its_grid(self, family):
        """The rows of the batch have one picture, one of another size, none and two; cells at the edges are smaller."""
        example = tiny(family)
        inputs, anatomy = example.inputs("left_padded"), anatomy_of(example.model)
        grids = [(h // 2, w // 2) for _, h, w in inputs["image_grid_thw"].tolist()]
        entering, left = [], []
        hook = anatomy.layers[0].register_forward_pre_hook(lambda m, args: entering.append(args[0]))
        with torch.no_grad():
            example.model(**inputs)
            with la.attach(example.model, la.Downsample(2)) as run:
                run.split = False
                run_hook = anatomy.layers[0].register_forward_pre_hook(lambda m, args: left.append(args[0]))
                example.model(**inputs)
                run_hook.remove()
        hook.remove()
        index, valid = run.kept_columns()
        layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
        cells, numbers = [], iter(grids)
        for row, spans in enumerate(layout.spans):
            for span in spans:
                high, wide = next(numbers)
                assert span.length == high * wide
                for top in range(0, high, 2):
                    for side in range(0, wide, 2):
                        members = [span.start + (top + i) * wide + side + j for i in range(2) for j in range(2)
                                   if top + i < high and side + j < wide]  # fmt: skip
                        cells.append((row, members))
        assert run.trace.visual_tokens[0] == [sum(r == row for r, _ in cells) for row in range(4)]
        for row, members in cells:
            (slot,) = [s for s, c in enumerate(index[row].tolist()) if valid[row, s] and c in members]
            torch.testing.assert_close(left[0][row, slot], entering[0][row, members].mean(0))

    def test_frames_of_a_video_are_pictures_of_their_own(self):
        example = tiny("qwen2_5_vl")
        anatomy = anatomy_of(example.model)
        ids = torch.full((1, 27), 17)
        ids[0, 2:18], ids[0, 20:24] = VIDEO, IMAGE
        inputs = {"input_ids": ids, "video_grid_thw": torch.tensor([[2, 4, 8]]),
                  "image_grid_thw": torch.tensor([[1, 4, 4]])}  # fmt: skip
        layout = anatomy.layout(ids)
        assert with_grids(layout, anatomy, inputs).spans == (((2, 8, (2, 4)), (10, 8, (2, 4)), (20, 4, (2, 2))),)
        for wrong in ([[2, 4, 6]], [[3, 4, 8]], [[2, 4, 8], [1, 4, 4]]):  # tokens that are not those of the grids
            assert with_grids(layout, anatomy, {**inputs, "video_grid_thw": torch.tensor(wrong)}).spans == layout.spans

    def test_a_picture_without_a_known_grid_is_refused(self):
        example = tiny("llava_next")
        with la.attach(example.model, la.Downsample(2)), pytest.raises(SettingsError, match=r"la\.UniformKeep"):
            example.model(**example.inputs())


def row_view(states):
    """A row before the decoder: a picture of all states but the last, which is the question's only token."""
    hidden = torch.tensor([states])
    visual = torch.tensor([[True] * (len(states) - 1) + [False]])
    layout = TokenLayout.from_masks(visual)
    return LayerView(0, 4, layout, hidden, layout.visual_counts)


def test_divprune_by_hand():
    """Directions of 0, 10, 90 and 180 degrees. Nearest neighbours are at 1 - cos 10, the same, 1 - cos 80 and 1: the
    last is first. Behind it 0 degrees is farthest (2), then 90 (1), then 10."""
    angles = torch.tensor([0.0, 10, 90, 180]).deg2rad()
    view = row_view([*torch.stack([angles.cos(), angles.sin()], 1).tolist(), [1.0, 0.0]])
    for keep, expected in ((1, [3]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])):
        kept = la.DivPrune(keep).decide(view).keep
        found = [0, 1, 2, 3] if kept is None else kept[0, :4].nonzero().flatten().tolist()
        assert found == expected


class TestDART:
    def test_by_hand(self):
        """The visual pivot is the longest token, (3, 0); least like it is (-1, -1). Of the two others (1, 0) is less
        like the text pivot (0, 4) than (0, 2) is."""
        view = row_view([[3.0, 0], [0, 2], [1, 0], [-1, -1], [0, 4]])
        decision = la.DART(layer=0, keep=3, pivots=1, text_pivots=1).decide(view)
        assert decision.keep.tolist() == [[True, False, True, True, True]]

    @pytest.mark.parametrize("layer", [0, 2])
    def test_each_pivot_in_turn_keeps_those_least_like_itself(self, layer):
        view = view_of(layer)
        counts = (5, 4, 0, 3)
        kept = keep_best(view, least_alike_each(view, Wanted(counts), 2, 2), torch.tensor(counts))
        for row in (0, 1, 3):
            visual = view.layout.visual[row].nonzero().flatten().tolist()
            question = [s for s in view.layout.text[row].nonzero().flatten().tolist() if s > visual[0]]
            states = unit(view.hidden[row])
            keys = view.hidden[row].norm(dim=1) if layer == 0 else view.attention_inputs.keys[row].norm(dim=-1).mean(0)
            longest = sorted(visual, key=lambda s: -float(keys[s]))[:2]
            pivots = longest + sorted(question, key=lambda s: -float(keys[s]))[:2]
            stays, rest = list(longest), counts[row] - 2
            for number, pivot in enumerate(pivots):
                share = rest // 4 + (number < rest % 4)
                free = [s for s in visual if s not in stays]
                stays += sorted(free, key=lambda s: float(states[s] @ states[pivot]))[:share]
            assert [s for s in visual if kept[row, s]] == sorted(stays)

    def test_what_0_1_saved_keeps_its_rule(self):
        config = {"positions": "original", "layer": 1, "keep": 0.5, "pivots": 3}
        assert la.DART.from_config(config, {}) == la.DART(layer=1, keep=0.5, pivots=3, text_pivots=0, rule="nearest")


def test_what_0_1_called_visionzip_style_is_read_as_visionzip_and_says_so(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("policy: visionzip-style\nconfig: {keep: 0.5, dominant: 0.6, layer: 1}")
    with pytest.warns(UserWarning, match="imitated VisionZip"):
        assert la.load(path) == la.VisionZip(0.5, dominant=0.6)
    assert la.VisionZipStyle is la.VisionZip


def test_divprune_before_the_decoder_chooses_from_the_projected_tokens():
    example = tiny("llava")
    inputs = example.inputs()
    with torch.no_grad():
        features = example.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    chosen, likeness = [], unit(features) @ unit(features).T
    nearest = (likeness - 2 * torch.eye(16)).amax(1)
    for _ in range(5):
        others = [i for i in range(16) if i not in chosen]
        chosen.append(min(others, key=lambda i: float(likeness[i, chosen].max() if chosen else nearest[i])))
    with torch.no_grad(), la.attach(example.model, la.DivPrune(5)) as run:
        example.model(**inputs)
    index, _ = run.kept_columns()
    first = (inputs["input_ids"][0] == IMAGE).nonzero()[0].item()
    assert [c - first for c in index[0].tolist() if first <= c < first + 16] == sorted(chosen)
