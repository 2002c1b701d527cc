"""Every image-text model that transformers knows: built tiny, tried, and found to be what docs/support.md says.

`self_check` is what `la.attach` runs before a policy. For models found by the common pattern it compares removal with
masking (inside) or with the decoder called by hand on each row's shorter prompt (before it); for families with a
function the tables of tests/engine do that with real pictures, and here only their state is held against the page.
"""

import inspect

import pytest
import torch
import transformers
from small_configs import BY_LAYER, IDS, JOINED, LAYERED, OVERRIDES, REPLACED, TEXT, VISION, WITHOUT_FEATURES
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

import lookaway as la
from lookaway.anatomy.families.by_pattern import BEFORE, INSIDE, ON_GRIDS
from lookaway.anatomy.registry import FAMILIES, REFUSED
from lookaway.anatomy.support import EVERY_TYPE, WALKED, state_of
from lookaway.core.decision import Decision
from lookaway.core.errors import UnsupportedModel
from lookaway.engine.entry_check import KeepSome, calls_of_decoder, outputs_of_row, row_by_hand
from lookaway.engine.self_check import self_check

SAME = transformers.__version__ == WALKED
TRIED = [name for name in EVERY_TYPE if name in (*BEFORE, *INSIDE)]


def small(config_class, overrides, is_text):
    """A config of this class in which every size that is known is small."""
    overrides, default, sizes = dict(overrides), vars(config_class()), TEXT if is_text else VISION
    chosen = {}
    for order, (name, value) in enumerate(sorted(default.items())):
        if hasattr(value, "to_dict"):
            part = overrides.pop(name, {})
            known = CONFIG_MAPPING[part["model_type"]] if "model_type" in part else None
            is_decoder = "text" in name or name == "decoder"
            chosen[name] = known(**part) if known else small(type(value), part, is_decoder)
        elif name in IDS:
            chosen[name] = IDS[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int) and name not in sizes:
            chosen[name] = 96 - order % 16
        elif name in sizes and value is not None and not name.startswith("_"):
            chosen[name] = sizes[name]
    return config_class(**{**chosen, **overrides})


def build(model_type):
    config = small(CONFIG_MAPPING[model_type], OVERRIDES.get(model_type, {}), True)
    for part, values in REPLACED.get(model_type, {}).items():
        vars(config)[part] = CONFIG_MAPPING[values["model_type"]](**values)
    model_class = getattr(transformers, CLASSES[model_type])
    torch.manual_seed(0)
    attention = "sdpa" if model_class._supports_sdpa else "eager"
    return model_class._from_config(config, attn_implementation=attention).eval()


@pytest.mark.skipif(not SAME, reason=f"the page is about transformers {WALKED}")
def test_the_page_lists_every_model_of_this_version():
    assert set(CLASSES) == set(EVERY_TYPE)
    assert [name for name in EVERY_TYPE if state_of(name) is None] == []
    assert set(INSIDE) | set(BEFORE) <= set(EVERY_TYPE)
    assert not set(INSIDE) & set(BEFORE)
    assert not (set(INSIDE) | set(BEFORE)) & (set(FAMILIES) | set(REFUSED))


@pytest.mark.skipif(not SAME, reason=f"the page is about transformers {WALKED}")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", TRIED)
def test_its_removal_is_proven_where_the_page_says(model_type):
    model = build(model_type)
    found = self_check(model)
    assert found.found_by == "rule"
    assert found.only_before == BEFORE.get(model_type, "")
    if found.only_before:
        with pytest.raises(UnsupportedModel, match=r"Removal inside the decoder .* is not possible"):
            la.attach(model, la.ExitAt(1))
    else:
        la.attach(model, la.ExitAt(1)).detach()
    with la.attach(model, la.UniformKeep(0.5, layer=0)) as run:
        ids = torch.tensor([[9, 5, 5, 5, 5, 9, 8]])
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert run.trace.visual_tokens[0] == [2]


def prompt_with_features(model, model_type):
    """Two rows with a picture each, one of them padded; in place of a tower's features, random ones."""
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 80, (2, 16), generator=draw)
    ids[0, 3:9] = ids[1, 8:12] = IDS["image_token_id"]
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    parts = [torch.randn(6, 32, generator=draw), torch.randn(4, 32, generator=draw)]
    pooled = torch.cat(parts) if model_type in JOINED else parts
    outputs = BaseModelOutputWithPooling(pooler_output=pooled, last_hidden_state=torch.cat(parts))
    outputs["router_logits"] = None
    if model_type in LAYERED:
        added = [torch.randn(10, 32, generator=draw).split([6, 4]) for _ in range(2)]
        outputs["deepstack_features"] = (
            [(2 * i, part) for i, part in enumerate(added)] if model_type in BY_LAYER else added
        )
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_encoder_outputs": {"image": outputs}}
    taken = inspect.signature(type(model).forward).parameters
    for name in {"mm_token_type_ids", "token_type_ids"} & taken.keys():
        inputs[name] = (ids == IDS["image_token_id"]).int()
    return inputs


@pytest.mark.skipif(not SAME, reason=f"the page is about transformers {WALKED}")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", [name for name in TRIED if name not in WITHOUT_FEATURES])
def test_removal_around_a_pictures_own_features(model_type):
    """What a family does around real pictures (masks in both directions, features between layers) is judged too."""
    model = build(model_type)
    inputs = prompt_with_features(model, model_type)
    anatomy = la.anatomy(model)
    none = torch.zeros(2, 0, dtype=torch.int64)
    with torch.no_grad():
        plain = calls_of_decoder(anatomy, inputs, none)
        with la.attach(model, KeepSome([2, 3])) as run:
            short = calls_of_decoder(anatomy, inputs, none)
            index, valid = run.kept_columns()
        for row in range(2):
            (expected,) = row_by_hand(anatomy, plain, row, index[row, valid[row]])
            (found,) = outputs_of_row(short, row, valid[row])
            torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-4)
        text = {name: value for name, value in inputs.items() if name != "mm_encoder_outputs"}
        assert not torch.allclose(calls_of_decoder(anatomy, text, none)[0]["out"], plain[0]["out"], atol=1e-3)
        if anatomy.only_before:
            return
        with la.reference(model, la.ExitAt([2, 1])) as masking:
            whole = model(**inputs).logits
        with la.attach(model, la.ExitAt([2, 1])) as removal:
            found = model(**inputs).logits
            index, valid = removal.kept_columns()
    assert masking.trace.exit_layers == removal.trace.exit_layers == [2, 1]
    wanted = whole.gather(1, index[..., None].expand(-1, -1, whole.shape[-1]))
    torch.testing.assert_close(found[valid], wanted[valid], atol=3e-5, rtol=1e-4)


@pytest.mark.skipif(not SAME, reason=f"the page is about transformers {WALKED}")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", sorted(ON_GRIDS))
def test_numbering_anew_around_a_picture_on_a_grid(model_type):
    """Six tokens of a picture of 2 x 3 and four of one of 2 x 2; each row keeps the two of the first column."""
    model = build(model_type)
    anatomy, inputs = la.anatomy(model), prompt_with_features(model, model_type)
    whole, short = torch.zeros(3, 2, 16, dtype=torch.int64), []
    for row, (first, rows, columns) in enumerate([(3, 2, 3), (8, 2, 2)]):
        pad = 4 * row
        place = first - pad
        picture = torch.tensor([(place, place + r, place + c) for r in range(rows) for c in range(columns)]).T
        behind = first + rows * columns
        whole[:, row, pad:first], whole[:, row, first:behind] = torch.arange(place), picture
        whole[:, row, behind:] = place + max(rows, columns) + torch.arange(16 - behind)
        kept = torch.cat([torch.arange(pad, first), torch.tensor([first, first + columns]), torch.arange(behind, 16)])
        new = whole[:, row, kept].clone()
        new[:, first - pad + 2 :] = place + 2 + torch.arange(16 - behind)
        short.append((kept, new))
    keep = torch.ones(2, 16, dtype=torch.bool)
    keep[0, [4, 5, 7, 8]] = keep[1, [9, 11]] = False

    class FirstColumn(KeepSome):
        def renumbers(self):
            return True

        def decide(self, view):
            return Decision(keep=keep)

    with torch.no_grad():
        plain = calls_of_decoder(anatomy, inputs, torch.zeros(2, 0, dtype=torch.int64))[0]
        given = {**inputs, "position_ids": whole}
        with la.attach(model, FirstColumn([])) as run:
            found = model(**given).logits
            index, valid = run.kept_columns()
        with la.reference(model, FirstColumn([])):
            masked = model(**given).logits.gather(1, index[..., None].expand_as(found))
        torch.testing.assert_close(found[valid], masked[valid], atol=3e-5, rtol=1e-4)
        for row, (columns, positions) in enumerate(short):
            assert index[row, valid[row]].tolist() == columns.tolist()
            states = anatomy.language_model(
                inputs_embeds=plain["inputs_embeds"][row : row + 1, columns], position_ids=positions[:, None]
            ).last_hidden_state
            torch.testing.assert_close(found[row, valid[row]], anatomy.head(states)[0], atol=3e-5, rtol=1e-4)
