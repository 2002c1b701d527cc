"""LaVIN: routing beside the sequence against a modality token inside it, batches, caches, disk and the engine."""

from __future__ import annotations

import pytest
import torch
from shared_lavin import IMAGE, ROWS, inputs
from transformers import LlamaForCausalLM

import lookaway as la
from lookaway.core.errors import DataError, SettingsError, UnsupportedModel
from lookaway.models.lavin.model import LavinConfig, LavinForConditionalGeneration
from lookaway.models.loading import load_model
from lookaway.models.tiny_models import tiny_lavin


@pytest.fixture(scope="module")
def model():
    return tiny_lavin()


@torch.no_grad()
def with_the_token_inside(model, row, picture):
    """The reference: the modality token at position 0, hidden from all others, routing read from its states."""
    body = model.model
    ids = torch.tensor([row])
    x = body.get_input_embeddings()(ids.masked_fill(ids == IMAGE, 0))
    if picture is not None:
        x = body._merged(x, ids == IMAGE, body.get_image_features(picture[None]))
    x = torch.cat([body.modality_embedding.weight[None, [int(picture is not None)]], x], 1)
    length = x.shape[1]
    mask = torch.full((length, length), torch.finfo(x.dtype).min).triu(1)
    mask[1:, 0] = torch.finfo(x.dtype).min
    places = body.language_model.rotary_emb(x, torch.arange(length)[None])
    for index, layer in enumerate(body.language_model.layers):
        z = layer.input_layernorm(x)
        routing = torch.zeros(1, len(body.language_model.layers), 2)
        routing[:, index] = layer.self_attn.adapter.route(z[:, 0])
        x = x + layer.self_attn(z, position_embeddings=places, attention_mask=mask[None, None], routing=routing)[0]
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(body.language_model.norm(x))[0, 1:]


@torch.no_grad()
def test_routing_beside_the_sequence_equals_a_modality_token_inside_it(model):
    given = inputs()
    logits = model(**given).logits
    pictures = {0: given["pixel_values"][0], 1: None, 2: given["pixel_values"][1]}
    for number, row in enumerate(ROWS):
        expected = with_the_token_inside(model, row, pictures[number])
        torch.testing.assert_close(logits[number, -len(row) :], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_modality_matters(model):
    text = inputs([ROWS[1]])
    other = model(**text, modality=torch.ones(1)).logits
    assert (other - model(**text).logits).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_batch_equals_its_rows_and_the_cache_changes_nothing(attention):
    model = tiny_lavin(attn_implementation=attention)
    given = inputs()
    end = model.generation_config.eos_token_id
    many = model.generate(**given, do_sample=False, max_new_tokens=6)[:, given["input_ids"].shape[1] :]
    assert len(set(map(tuple, many.tolist()))) == 3
    for number, row in enumerate(ROWS):
        grown = list(row)
        for _ in range(6):  # no cache, no padding
            one = inputs([row])
            one |= {"input_ids": torch.tensor([grown]), "attention_mask": torch.ones(1, len(grown), dtype=torch.int64)}
            grown.append(int(model(**one).logits[0, -1].argmax()))
            if grown[-1] == end:
                break
        answer = grown[len(row) :]
        assert many[number].tolist() == answer + [model.generation_config.pad_token_id] * (6 - len(answer))


@torch.no_grad()
def test_beams_equal_those_without_a_cache(model):
    options = {"do_sample": False, "num_beams": 3, "max_new_tokens": 5}
    assert torch.equal(model.generate(**inputs(), **options), model.generate(**inputs(), **options, use_cache=False))


@torch.no_grad()
def test_visual_tokens_are_the_class_tokens_after_every_fourth_block(model):
    pictures = inputs()["pixel_values"]
    tower, seen = model.model.vision_tower, []
    blocks = getattr(tower, "vision_model", tower).encoder.layers
    hooks = [blocks[i].register_forward_hook(lambda m, i, out: seen.append(out)) for i in (3, 7)]
    tokens = model.model.get_image_features(pictures)
    for hook in hooks:
        hook.remove()
    assert tokens.shape == (2, 2, 32)
    for i, states in enumerate(seen):
        expected = model.model.projector(states[:, 0])
        torch.testing.assert_close(tokens[:, i], expected)


@pytest.mark.parametrize("routing", ["token", "patches"])
@torch.no_grad()
def test_an_image_does_not_depend_on_the_others_of_its_batch(routing):
    body = tiny_lavin(vision_routing=routing).model
    pictures = inputs()["pixel_values"]
    alone = torch.cat([body.get_image_features(picture[None]) for picture in pictures])
    torch.testing.assert_close(body.get_image_features(pictures), alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_fresh_model_is_the_plain_decoder():
    config = tiny_lavin().config
    torch.manual_seed(3)
    model = LavinForConditionalGeneration(config).eval()
    plain = LlamaForCausalLM(config.text_config).eval()
    kept = {k: v for k, v in model.state_dict().items() if ".adapter." not in k}
    plain.load_state_dict(
        {k.replace("model.language_model.", "model."): v for k, v in kept.items()
         if k.startswith(("model.language_model.", "lm_head."))}
    )  # fmt: skip
    given = inputs([ROWS[1]])
    torch.testing.assert_close(model(**given).logits, plain(**given).logits, atol=1e-6, rtol=1e-5)


def test_training_reaches_adapters_and_modality_embedding(model):
    given = inputs()
    model.zero_grad()
    labels = given["input_ids"].masked_fill(given["input_ids"] == IMAGE, -100)
    model(**given, labels=labels).loss.backward()
    body = model.model
    for part in (body.modality_embedding, body.projector, body.language_model.layers[2].self_attn.adapter):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    model.zero_grad()


@torch.no_grad()
def test_published_decode_positions_move_generated_tokens_only():
    plain, moved = tiny_lavin(), tiny_lavin(published_decode_positions=True)
    given = inputs()
    assert torch.equal(plain(**given).logits, moved(**given).logits)
    first, other = (m.generate(**given, do_sample=False, max_new_tokens=8)[:, 9:] for m in (plain, moved))
    assert torch.equal(first[:, 0], other[:, 0])
    assert not torch.equal(first, other)


@torch.no_grad()
def test_the_disk(tmp_path, model):
    model.save_pretrained(tmp_path)
    again = LavinForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.vision_feature_layers == (4, 8)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    torch.testing.assert_close(again(**inputs()).logits, model(**inputs()).logits)


@torch.no_grad()
def test_removal_equals_masking(model):
    given = inputs()
    for layer in (1, 3):
        with la.attach(model, la.ExitAt(layer)) as run:
            fast = model.generate(**given, do_sample=False, max_new_tokens=6)
        assert run.trace.exit_layers == [layer, None, layer]
        with la.reference(model, la.ExitAt(layer)):
            slow = model.generate(**given, do_sample=False, max_new_tokens=6)
        assert torch.equal(fast, slow)


@torch.no_grad()
def test_what_does_not_fit_is_named(model):
    given = inputs()
    with pytest.raises(DataError, match="4 visual tokens, but the 1 images make 2"):
        model(**given | {"pixel_values": given["pixel_values"][:1]})
    with pytest.raises(DataError, match="there are no pixel_values"):
        model(input_ids=given["input_ids"])
    out = model(**given, use_cache=True)
    step = {"input_ids": torch.full((3, 1), 9), "past_key_values": out.past_key_values}
    with pytest.raises(DataError, match="give `modality`"):
        model(**step)
    assert model(**step, routing=out.routing).logits.shape == (3, 1, 97)
    with pytest.raises(UnsupportedModel, match="needs the routing of its 3 rows and got one of 2"):
        model(**given, routing=out.routing[:2])
    with pytest.raises(SettingsError, match="vision_routing must be one of token, patches"):
        LavinConfig(vision_routing="class")
    with pytest.raises(SettingsError, match="does not divide the adapter width 5"):
        LavinConfig(adapter_dim=5)


def test_published_sizes():
    config = LavinConfig()
    assert (config.image_seq_length, config.vision_feature_layers) == (6, (4, 8, 12, 16, 20, 24))
    with torch.device("meta"):
        model = LavinForConditionalGeneration(config)
    adapters = [p.numel() for name, p in model.named_parameters() if ".adapter." in name]
    others = [p.numel() for part in (model.model.projector, model.model.modality_embedding) for p in part.parameters()]
    assert sum(adapters) + sum(others) == 3_781_296  # the published 3.8 M


@torch.no_grad()
def test_a_folder_loads_like_any_other_model(tmp_path, model):
    from test_lavin_processor import processor

    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    loaded, reader = load_model(tmp_path)
    features = reader(text="Image: <image>what", images=[torch.zeros(3, 16, 16)])
    assert loaded(**features).logits.shape[-1] == 97
