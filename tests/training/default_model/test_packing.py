"""A packed sequence answers as its questions one by one would; an exit is the same as masking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lookaway.data import scenes
from lookaway.data.scenes import Question
from lookaway.models.mini.parts import IMAGE_TOKEN, VISUAL_TOKENS
from lookaway.training.default_model.packed_run import embed, logits_at, run_layers
from lookaway.training.default_model.packing import PREFIX, choose_visual, pack


def asked(n: int) -> list[Question]:
    return [Question(s.family or "", s.question, s.answer or "") for s in scenes.samples("train", n)]


def message(q: Question) -> list[dict]:
    content = [{"type": "image"}] * (q.family != "text") + [{"type": "text", "text": q.text}]
    return [{"role": "user", "content": content}]


def test_tokens_are_those_of_the_chat_template(tokens):
    for q in asked(10):
        whole = tokens.tokenizer.apply_chat_template(message(q), add_generation_prompt=True, tokenize=False)
        image = [] if q.family == "text" else tokens.ids(IMAGE_TOKEN)
        assert [*tokens.prefix, *image, *tokens.question(q.text)] == tokens.ids(whole)


def test_packed_equals_one_by_one(tokens, language):
    questions, visual = asked(10), torch.randn(1, VISUAL_TOKENS, 64)
    p = pack(tokens, [questions], np.arange(VISUAL_TOKENS)[None])
    with torch.no_grad():
        packed = logits_at(language, run_layers(language, embed(language, visual, p), p), p)
        for number, q in enumerate(questions):
            table = language.model.embed_tokens
            parts = [table(torch.tensor(tokens.prefix)), visual[0], table(torch.tensor(tokens.question(q.text)))]
            alone = torch.cat(parts if q.family != "text" else [parts[0], parts[2]])
            expected = language(inputs_embeds=alone[None]).logits[0, -1]
            got = packed[(p.question == number) & p.first][0]
            torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("exit_at", [0, 1, 2])
def test_exit_equals_masking_the_visual_columns(tokens, language, exit_at):
    p = pack(tokens, [asked(5), asked(9)[4:]], np.stack([np.arange(VISUAL_TOKENS)] * 2))
    hidden = embed(language, torch.randn(2, VISUAL_TOKENS, 64), p)
    with torch.no_grad():
        removed = logits_at(language, run_layers(language, hidden, p, exit_at=exit_at), p)
        rotary = language.model.rotary_emb(hidden, position_ids=p.positions)
        for index, layer in enumerate(language.model.layers):
            mask = p.mask.clone()
            if index >= exit_at:  # text rows look past the image; what visual rows do no longer matters
                mask[:, :, PREFIX + VISUAL_TOKENS :, PREFIX : PREFIX + VISUAL_TOKENS] = torch.finfo(mask.dtype).min
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        torch.testing.assert_close(removed, logits_at(language, hidden, p), atol=2e-5, rtol=1e-4)


def test_replay_from_the_tape_equals_a_run_with_exit(tokens, language):
    p = pack(tokens, [asked(6)], np.arange(VISUAL_TOKENS)[None])
    hidden, tape = embed(language, torch.randn(1, VISUAL_TOKENS, 64), p), []
    with torch.no_grad():
        run_layers(language, hidden, p, tape=tape)
        replayed = run_layers(language, tape[2], p, exit_at=2, first=2)
        torch.testing.assert_close(replayed, run_layers(language, hidden, p, exit_at=2))


def test_budget_and_subset():
    rng = np.random.default_rng(0)
    shown = np.zeros(VISUAL_TOKENS, dtype=bool)
    shown[50:60] = True
    chosen = choose_visual(rng, shown, 70)
    assert len(chosen) == 70
    assert (np.diff(chosen) > 0).all()
    assert np.isin(np.arange(50, 60), chosen).sum() >= 9
    assert (choose_visual(rng, shown, 196) == np.arange(196)).all()


def test_budget_leaves_out_what_does_not_fit(tokens):
    p = pack(tokens, [asked(10)], np.arange(VISUAL_TOKENS)[None], budget=40, closing=0.0, rng=np.random.default_rng(0))
    assert p.text.shape[1] <= 40
    assert 0 < len(p.asked) < 10
    assert bool(p.first.all())
