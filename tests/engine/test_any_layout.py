"""Random batches: text and images anywhere, rows without image, padding on either side, any exits, any length."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_policies import Exit, Thin

from lookaway.anatomy.tiny import IMAGE, PAD, tiny
from lookaway.engine.api import attach, reference
from lookaway.engine.prefill import row_groups as groups

MODEL = tiny("llava")
VISUAL = 16  # tokens an image
rows = st.lists(  # (text, then images with text behind each)
    st.tuples(st.integers(1, 5), st.lists(st.integers(1, 6), max_size=3)), min_size=1, max_size=4
)
exits = st.lists(st.one_of(st.none(), st.integers(1, 3)), min_size=4, max_size=4)


def batch_of(layouts, left, seed):
    draw = torch.Generator().manual_seed(seed)
    ids = []
    for before, behind in layouts:
        row = torch.randint(10, 97, (before,), generator=draw).tolist()
        for count in behind:
            row += [IMAGE] * VISUAL + torch.randint(10, 97, (count,), generator=draw).tolist()
        ids.append(row)
    width = max(map(len, ids))
    padded = [[PAD] * (width - len(r)) + r if left else r + [PAD] * (width - len(r)) for r in ids]
    real = [[0] * (width - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (width - len(r)) for r in ids]
    images = sum(len(behind) for _, behind in layouts)
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(real)}
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 16, 16, generator=draw)
    return inputs


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows, exits, st.booleans(), st.booleans(), st.sampled_from([0, 32]), st.integers(1, 5), st.integers(0, 99))
def test_removal_equals_masking_whatever_the_batch(layouts, at, left, thin, call, decode, seed):
    if not any(behind for _, behind in layouts):
        return
    inputs = batch_of(layouts, left, seed)
    usual, groups.CALL["cpu"] = groups.CALL["cpu"], call
    try:
        found = []
        for how in (attach, reference):
            policy = Thin((1, 2)) if thin else Exit(at[: len(layouts)])
            with torch.no_grad(), how(MODEL.model, policy) as run:
                out = MODEL.model(**inputs, use_cache=True)
                index, valid = run.kept_columns()
                logits = out.logits
                if how is reference:
                    logits = logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1]))
                steps = []
                if left:
                    steps = MODEL.model.generate(
                        **inputs, do_sample=False, max_new_tokens=decode, min_new_tokens=decode,
                        return_dict_in_generate=True, output_logits=True,
                    ).logits  # fmt: skip
            found.append((logits[valid], torch.stack(steps) if steps else logits[:0], run.trace))
    finally:
        groups.CALL["cpu"] = usual
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-5)
    assert found[0][2] == found[1][2]
