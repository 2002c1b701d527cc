"""Records of a made-up run, for tests and for looking at the page; never results."""

import base64
import io

from lookaway.core.record import RecordWriter

DEPTH = 30
FAMILIES = ("colour", "shape", "count", "easy-yesno")


def outcome(accuracy, share, layer, agreement=None):
    return {
        "accuracy": accuracy,
        "agreement": accuracy / 0.9 if agreement is None else agreement,
        "mean_exit": layer,
        "flops_share": share,
        "visual_tokens_share": layer / DEPTH,
    }


def write_made_up_run(path, model="made-up-model", data="made-up-data"):
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (112, 112), (245, 245, 240))
    ImageDraw.Draw(picture).ellipse((30, 30, 80, 80), fill=(220, 40, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with RecordWriter(path) as writer:
        writer.write(
            "run", run="abc", command="eval", model=model, data=data, seed=0, dtype="float32", attention="sdpa",
            base_model={"architecture": "Llava", "num_layers": DEPTH, "hidden_size": 576, "vocab_size": 9}, options={},
            config_hash="123", hardware="a made-up machine", versions={"lookaway": "0", "commit": ""},
            argv=["lookaway", "eval"], created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        rows = []
        for number in range(160):
            family, layer = FAMILIES[number % 4], (3 + 5 * (number % 4) + number % 3) if number % 9 else None
            seen = DEPTH if layer is None else layer
            writer.write(
                "sample", variant="gates", id=str(number), family=family, question=f"what colour is thing {number}?",
                truth="red", answer_without="red", answer_with="red" if number % 11 else "blue", right_without=True,
                right_with=bool(number % 11), agree=bool(number % 11), exit_layer=layer, num_layers=DEPTH,
                visual_tokens=[196] * seen + [0] * (DEPTH - seen), flops=seen, full_flops=DEPTH, fastv_flops=seen,
                full_fastv_flops=DEPTH, kv_bytes=seen, full_kv_bytes=DEPTH,
            )  # fmt: skip
            if number < 8:
                writer.write("picture", id=str(number), png=base64.b64encode(buffer.getvalue()).decode())
        for family in ("all", *FAMILIES):
            rows.append(
                {"family": family, "samples": 40, "accuracy_without": 0.9, "accuracy_with": 0.88, "p_value": 0.5,
                 "retention": [0.98, 0.95, 1.0], "agreement": [0.97, 0.94, 0.99], "mean_exit": 11.2, "never_exits": 0.1,
                 "visual_tokens": 70.0, "full_visual_tokens": 196.0, "flops_share": 0.44, "fastv_share": 0.45,
                 "kv_share": 0.47}
            )  # fmt: skip
            layers = list(range(1, DEPTH + 1))
            late = 3 + 3 * len(family)
            fixed = [outcome(0.3 + 0.6 / (1 + 2.7 ** (late / 3 - k / 2)), 0.1 + 0.9 * k / DEPTH, k) for k in layers]
            random = [outcome(0.3 + 0.6 * k / DEPTH, 0.1 + 0.9 * k / DEPTH, k) for k in layers]
            writer.write("curve", family=family, samples=40, layers=layers, fixed=fixed, random=random,
                         oracle=outcome(0.93, 0.3, 7.0, 1.0))  # fmt: skip
        writer.write("summary", variant="gates", rows=rows)
        points = [
            outcome(0.6 + 0.3 * t, 0.2 + 0.8 * t**3, 30 * t) | {"threshold": t} for t in (0.1, 0.4, 0.7, 0.9, 1.0)
        ]
        writer.write("front", variant="gates", points=points)
        writer.write(
            "comparison", variant="gates", policy=outcome(0.88, 0.44, 11.2), best_fixed=outcome(0.82, 0.44, 12.0),
            random=outcome(0.6, 0.44, 11.2), oracle=outcome(0.9, 0.3, 7.0), full=outcome(0.9, 1.0, 30.0),
        )  # fmt: skip
        for name, layer, implied, speedup in (
            ("exit at 4", 4, 4.4, 4.0),
            ("exit at 15", 15, 1.8, 1.72),
            ("idle", None, 1.0, 0.995),
        ):
            writer.write("timing", variant=name, part="decoder", exit_layer=layer, seconds=0.1, quartiles=[0.09, 0.11],
                         baseline_seconds=0.3, speedup=speedup, speedup_quartiles=[0.95 * speedup, 1.04 * speedup],
                         implied=implied, implied_flops=1.3 * implied, efficiency=speedup / implied,
                         batch_size=1)  # fmt: skip
        tested = [
            {"threshold": t, "changed": c, "bound": (c + 4) / 500, "mean_exit": e}
            for t, c, e in ((0.99, 0, 25.0), (0.9, 2, 18.5), (0.83, 3, 14.0), (0.7, 9, 11.0))
        ]
        writer.write("calibration", threshold=0.83, epsilon=0.02, delta=0.05, samples=500, changed=3, bound=0.0154,
                     tested=tested)  # fmt: skip
        writer.write("training", options={}, good_share={"10": 0.8, "2": 0.25, "4": 0.5}, history=[])
        for number in range(12):
            writer.write("trial", key=str(number), effectiveness=0.9 + number / 200, complete=number % 4 > 0,
                         flops_share=0.3 + number / 100)  # fmt: skip
        writer.write("trial", key="test/full", right="011", agree="111")
        writer.write(
            "search", method="g-search", budget=0.4, measure="agreement", trials=12, random_trials=12,
            notes=["A note."], rates=[1.0] * 10 + [0.5] * 10 + [0.0] * 10, samples=["1", "2"],
            verdict={"flops_share": 0.39, "effectiveness": 0.97}, random={"flops_share": 0.4, "effectiveness": 0.9},
        )  # fmt: skip
        for method, budget in (("full", 1.0), ("g-search", 0.3), ("fastv", 0.3), ("fixed-exit", 0.3)):
            writer.write(
                "equal-cost", method=method, budget=budget, trials=12, samples=40, flops_share=0.98 * budget,
                fastv_share=budget, kv_share=budget, kv_bytes=9e6 * budget, visual_tokens=196 * budget,
                full_visual_tokens=196.0, accuracy=[0.85, 0.8, 0.9], agreement=[0.9, 0.85, 0.95],
                retention=[0.94, 0.9, 1.0], p_random=None,
                rates=[] if method in ("full", "fixed-exit") else [1.0] * 10 + [0.2] * 20,
            )  # fmt: skip
    return path
