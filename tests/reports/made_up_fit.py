"""Records of a made-up `lookaway fit`, for tests and for looking at the page; never results."""

import base64
import io

import numpy as np
from made_up_run import DEPTH

from lookaway.core.record import RecordWriter

SECOND = {
    "name": "second-look",
    "config": {
        "first": {"policy": "keep-schedule", "config": {"keep": [1.0] * 2 + [0.1] * 28, "ranking": "last-token"}},
        "then": {"policy": "keep-schedule", "config": {"keep": [1.0] * 2 + [0.5] * 28, "ranking": "last-token"}},
        "threshold": 0.93, "confidence": "probability",
    },
}  # fmt: skip
WITH_FAMILIES = ("colour", "count", "relation", "easy-yesno")


TIMED = {"seconds": 0.41, "full_seconds": 0.9, "speedup": 2.2, "quartiles": [2.1, 2.3], "batch_size": 8,
         "answer_tokens": 1, "rounds": 8}  # fmt: skip


CERTIFICATE = {"epsilon": 0.03, "delta": 0.05, "samples": 160, "changed": 1, "bound": 0.0293, "share": 0.346,
               "loss": 0.006, "method": "exact binomial bound", "scorer": None}  # fmt: skip


def choice(name, method, share, changed, samples=160, threshold=None, again=0.0):
    return {"name": name, "method": method, "share": share, "changed": changed, "samples": samples,
            "threshold": threshold, "again": again, "loss": changed / samples, "seconds": None}  # fmt: skip


def picture():
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (112, 112), (240, 244, 250))
    pen = ImageDraw.Draw(image)
    pen.ellipse((14, 14, 44, 44), fill=(220, 40, 40))
    pen.rectangle((60, 66, 100, 98), fill=(30, 90, 220))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def header(writer):
    writer.write(
        "run", run="abc", command="fit", model="made-up-model", data="made-up-data", seed=0, dtype="float32",
        base_model={"architecture": "Llava", "num_layers": DEPTH, "hidden_size": 576, "vocab_size": 9}, options={},
        attention="sdpa", config_hash="123", hardware="a made-up machine", versions={"lookaway": "0", "commit": ""},
        argv=["lookaway", "fit"], created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def fit_record(certified=True):
    draw = np.random.default_rng(2)
    shares = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8]
    tried = [choice(f"reduction/{s:g}", "reduction", 0.1 + 0.88 * s, round(60 * (1 - s) ** 6)) for s in shares]
    tried += [choice(f"exit/{k}", "exit", k / 30 + 0.02, round(90 * (1 - k / 30) ** 2)) for k in range(4, 30, 3)]
    second = [[0.2 + 0.6 * float(draw.random()) ** 2, int(draw.integers(0, 30)), 160, 0.01] for _ in range(300)]
    best = choice("second-look/a then b below 0.93", "second-look", 0.34, 1, threshold=0.93, again=0.24)
    tests = [choice("reduction/last-token-2-0.8", "reduction", 0.8, 0) | {"bound": 0.0185},
             choice("reduction/last-token-2-0.5", "reduction", 0.54, 0) | {"bound": 0.0185},
             choice(best["name"], "second-look", 0.346, 1, threshold=0.93, again=0.25) | {"bound": 0.0293},
             choice("second-look/a then b below 0.5", "second-look", 0.28, 6) | {"bound": 0.0729}]  # fmt: skip
    return {
        "options": {"epsilon": 0.03, "delta": 0.05, "cost": "flops"},
        "unit": "flops",
        "metric": "answers",
        "confirmed": TIMED if certified else None,
        "policy": SECOND if certified else None,
        "chosen": best if certified else None,
        "certificate": CERTIFICATE if certified else None,
        "tested": tests if certified else [tests[3]],
        "order": [tried[9], tried[7], best, choice("second-look/a then b below 0.5", "second-look", 0.275, 5)],
        "front": [tried[9], tried[7], best],
        "tried": tried,
        "second_looks": second,
    }  # fmt: skip


def beside(name, cost, same, right, own_cost=False):
    samples = 100

    def interval(count):
        return [count / samples, max(0.0, count / samples - 0.06), min(1.0, count / samples + 0.03)]

    families = [
        {"family": family, "samples": 100 if family == "all" else 25, "agreement": interval(same), "flops_share": cost,
         "accuracy_without": 0.93, "accuracy_with": right / samples, "visual_tokens": 51.2, "full_visual_tokens": 196.0}
        for family in ("all", *WITH_FAMILIES)
    ]  # fmt: skip
    return {"name": name, "own_cost": own_cost, "samples": samples, "images": samples, "flops_share": cost,
            "kv_share": cost, "same": same, "agreement": interval(same), "accuracy": interval(right),
            "accuracy_without": interval(93), "policy": SECOND, "families": families, "split": "test-seen"}  # fmt: skip


def write_made_up_fit(folder, certified=True):
    """records.jsonl and held-out.jsonl, as `lookaway fit` leaves them."""
    with RecordWriter(folder / "records.jsonl") as writer:
        header(writer)
        writer.write("fit", **fit_record(certified))
    if not certified:
        return [folder / "records.jsonl"]
    with RecordWriter(folder / "held-out.jsonl") as writer:
        header(writer)
        for row in (("this policy", 0.35, 98, 92), ("uniform tokens", 0.35, 91, 88), ("random tokens", 0.35, 89, 86),
                    ("downsampling 2 x 2", 0.33, 84, 80, True), ("fixed exit before layer 10", 0.36, 38, 36),
                    ("FastV as published", 0.54, 97, 92, True)):  # fmt: skip
            writer.write("beside", **beside(*row))
        draw = np.random.default_rng(0)
        for number in range(8):
            again = number % 3 == 2
            stay = draw.choice(196, 98 if again else 20, replace=False)
            layers = np.full(196, 2)
            layers[stay] = DEPTH
            writer.write(
                "kept", id=str(number), png=picture(), question="what color is the circle at the upper left?",
                family=WITH_FAMILIES[number % 4], truth="red", answer="red", answer_without="red" if number else "blue",
                layers=layers.tolist(), grid=[14, 14], num_layers=DEPTH, again=again, flops_share=0.2 + 0.4 * again,
            )  # fmt: skip
    return [folder / "records.jsonl", folder / "held-out.jsonl"]
