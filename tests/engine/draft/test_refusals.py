"""What cannot be drafted is refused before anything runs, with the reason and the cure."""

import pytest
import torch
from test_twig import random_twig
from transformers import GenerationConfig, StaticCache, WatermarkingConfig

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import DataError, ModelMismatch, SettingsError, UnsupportedModel

OPTIONS = [
    {"num_beams": 2},
    {"num_return_sequences": 2, "do_sample": True},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "low"},
    {"custom_generate": lambda *args, **kwargs: None},
    {"prompt_lookup_num_tokens": 3},
    {"assistant_early_exit": 2},
    {"assistant_ensemble_weight": 0.5},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"cache_implementation": "offloaded"},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"guidance_scale": 1.5},
    {"watermarking_config": WatermarkingConfig()},
    {"stop_strings": ["."]},
    {"stopping_criteria": [lambda ids, scores: False]},
    {"synced_gpus": True},
]


@pytest.fixture
def drafted():
    made = tiny("llava")
    with la.attach(made.model, la.ExitAt(2), draft=la.Draft(2)):
        yield made


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_ways_to_generate(drafted, options):
    name = next(iter(options))
    with pytest.raises(UnsupportedModel, match=rf"generate\({name}=.*cannot be drafted: .*without draft="):
        drafted.model.generate(**drafted.inputs(), **options)


def test_options_by_position_count_too(drafted):
    inputs = drafted.inputs()
    ids = inputs.pop("input_ids")
    with pytest.raises(UnsupportedModel, match=r"generate\(stopping_criteria=list\) cannot be drafted"):
        drafted.model.generate(ids, None, None, [lambda ids, scores: False], **inputs)
    with pytest.raises(UnsupportedModel, match=r"generate\(synced_gpus=True\) cannot be drafted"):
        drafted.model.generate(ids, None, None, None, None, True, **inputs)


def test_settings_of_a_config_count_too(drafted):
    with pytest.raises(UnsupportedModel, match="num_beams=3"):
        drafted.model.generate(**drafted.inputs(), generation_config=GenerationConfig(num_beams=3))
    with pytest.raises(UnsupportedModel, match="num_beams=3"):
        drafted.model.generate(drafted.inputs()["input_ids"], GenerationConfig(num_beams=3))
    drafted.model.generation_config.num_beams = 4
    with pytest.raises(UnsupportedModel, match="num_beams=4"):
        drafted.model.generate(**drafted.inputs(), generation_config=GenerationConfig(top_k=3))
    drafted.model.generate(**drafted.inputs(), num_beams=1, max_new_tokens=2)
    drafted.model.generation_config.num_beams = None


def test_batches_assistants_and_caches(drafted):
    model, inputs = drafted.model, drafted.inputs()
    with pytest.raises(UnsupportedModel, match=r"batch of 4 rows .* row by row"):
        model.generate(**drafted.inputs("left_padded"))
    with pytest.raises(UnsupportedModel, match="assistant_model="):
        model.generate(**inputs, assistant_model=tiny("llava", num_layers=2).model)
    with pytest.raises(UnsupportedModel, match=r"StaticLayer.*default cache"):
        model.generate(**inputs, past_key_values=StaticCache(model.config.get_text_config(), max_cache_len=64))
    with torch.no_grad():
        cache = model(**inputs).past_key_values
    ids = torch.cat([inputs["input_ids"], torch.tensor([[20, 21]])], 1)
    with pytest.raises(UnsupportedModel, match=r"earlier turns .* past_key_values"):
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"by": 0}, "number of decoder layers from 1 on"),
        ({"by": True}, "number of decoder layers"),
        ({"by": "out/twig"}, "not 'out/twig'"),
        ({"by": la.ExitAt(2)}, r"no twig .* la.Draft\(8\)"),
        ({"by": 2, "tokens": 0}, "tokens=0"),
        ({"by": 2, "confidence": 1.5}, r"from 0 to 1, not 1\.5"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(SettingsError, match=words):
        la.Draft(**settings)


def test_drafts_that_do_not_fit_the_model():
    made = tiny("llava")
    model, weights = made.model, random_twig(made.model)
    for draft, words in (
        (la.Draft(4), "A draft of 4 layers does not fit a decoder of 4: .* from 1 to 3"),
        (la.Draft(la.Twig(start=3, depth=2)), "does not fit this model: its decoder has 4 layers"),
        (la.Draft(la.Twig(start=9, depth=1)), "does not fit a decoder of 4"),
        (2, r"draft=2 is no draft\. Give la\.Draft\(8\)"),
    ):
        with pytest.raises(SettingsError, match=words):
            la.attach(model, la.KeepAll(), draft=draft)
    with pytest.raises(SettingsError, match="nothing in them could guess"):
        la.attach(model, la.AttentionSkip((0, 1)), draft=la.Draft(2))
    trained = la.Twig(start=2, depth=1, weights=weights).with_base(la.anatomy(model).identity)
    with pytest.raises(ModelMismatch):
        la.attach(tiny("llava", seed=1).model, la.KeepAll(), draft=la.Draft(trained))
    with pytest.raises(DataError, match="weight"):
        la.attach(model, la.KeepAll(), draft=la.Draft(la.Twig(start=2, depth=2, weights=weights)))
    with pytest.raises(UnsupportedModel, match=r"Drafting is not possible on .* without draft="):
        la.attach(tiny("qwen3_5").model, la.KeepAll(), draft=la.Draft(2))
    with pytest.raises(UnsupportedModel, match="different kinds"):
        la.attach(tiny("gemma3").model, la.KeepAll(), draft=la.Draft(la.Twig(start=1, depth=2)))
    la.attach(model, la.KeepAll()).detach()  # nothing of those that were refused is left
