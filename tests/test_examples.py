"""The examples run, and stay short."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path, capsys):
    assert len(path.read_text().splitlines()) <= 85
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_an_exception_of_the_generating_thread_reaches_whoever_reads_the_stream(capsys):
    """examples/service.py, whose stream would else wait for ever (docs/service.md)."""
    runpy.run_path(str(next(path for path in EXAMPLES if path.name == "service.py")), run_name="__main__")
    answers, streamed, error = capsys.readouterr().out.strip().splitlines()
    assert "'visual_tokens_left': [0, 0]" in answers  # before layer 2 all of the first row's left
    assert streamed.startswith("streamed: ")
    assert error.startswith("the reader gets it: ")
    assert "max_new_tokens" in error


def test_rows_of_one_batch_stream_as_generate_answers_them():
    """examples/streams.py: pieces of each row, put together, are its answer; an exception reaches the reader."""
    from PIL import Image

    import lookaway as la
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor
    from lookaway.models.encoding import encode

    stream = runpy.run_path(str(next(path for path in EXAMPLES if path.name == "streams.py")))["stream"]
    model, processor = tiny("llava").model, tiny_processor()
    picture = Image.new("RGB", (16, 16), "red")
    asked = [("what?", (picture,)), ("and without a picture?", ()), ("two of them?", (picture, picture))]
    samples = []
    for number, (text, pictures) in enumerate(asked):
        content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
        samples.append(la.Sample(str(number), [{"role": "user", "content": content}], pictures))
    inputs = encode(processor, samples, model.device).inputs
    with la.attach(model, la.ExitAt(2)):
        plain = model.generate(**inputs, do_sample=False, max_new_tokens=12)[:, inputs["input_ids"].shape[1] :]
        model.generation_config.eos_token_id = int(plain[0, 4])  # the first row ends before the others
        whole = model.generate(**inputs, do_sample=False, max_new_tokens=12)[:, inputs["input_ids"].shape[1] :]
        texts = [""] * len(samples)
        for row, piece in stream(model, processor, samples, 12):
            texts[row] += piece
        with pytest.raises(ValueError, match="max_new_tokens"):
            list(stream(model, processor, samples, 0))
    end = model.generation_config.eos_token_id
    for row, ids in enumerate(whole.tolist()):
        kept = ids[: ids.index(end)] if end in ids else ids
        assert texts[row] == processor.tokenizer.decode(kept, skip_special_tokens=True)
    assert len(texts[0]) < len(texts[1])
