import pytest


@pytest.fixture(scope="session")
def studied():
    """(model, processor, samples, records): a study of six questions on a tiny model of six layers."""
    import numpy as np
    from PIL import Image

    from lookaway.analysis.collect import study
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor
    from lookaway.core.record import Sample

    rng = np.random.default_rng(0)
    model, processor = tiny("llava", 6).model, tiny_processor()
    model.generation_config.suppress_tokens = [model.config.image_token_id]  # a random model may answer with it
    samples = []
    for number in range(6):
        image = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        content = [{"type": "image"}, {"type": "text", "text": "what is it?" + "?" * number}]
        answer = None if number == 5 else "ab"
        samples.append(Sample(str(number), [{"role": "user", "content": content}], (image,), answer,
                              ("even", "odd")[number % 2]))  # fmt: skip
    return model, processor, samples, study(model, processor, samples)
