"""Folders of made-up records for the leaderboard: two policies by `eval`, one `fit`, three tasks; never results."""

from made_up_run import DEPTH

import lookaway
from lookaway.core.record import RecordWriter

SCHEDULE = {"name": "keep-schedule", "settings": {"keep": [1.0] * 2 + [0.1] * 28, "ranking": "last-token"}}
FASTV = {"name": "fastv", "settings": {"layer": 2, "ratio": 0.5}}


def numbers(cost, same, score, without=0.9, samples=160, family="all"):
    """A row of a 'summary'."""
    return {"family": family, "samples": samples, "images": samples, "scored": samples, "accuracy_without": without,
            "accuracy_with": score, "retention": [score / without, 0.9, 1.0], "p_value": 0.5,
            "agreement": [same, same - 0.05, min(1.0, same + 0.02)], "mean_exit": 30.0, "never_exits": 1.0,
            "visual_tokens": 196 * cost, "full_visual_tokens": 196.0, "flops_share": cost, "fastv_share": cost,
            "kv_share": cost, "needed_for_one_percent": 783}  # fmt: skip


def header(writer, command="eval", policy=SCHEDULE, weights="1a2b3c4d", questions="5e6f7a8b", data="mini",
           model="llava-hf/llava-1.5-7b-hf", version=lookaway.__version__, more=None, **options):  # fmt: skip
    facts = {"model": {"weights": weights, "config": "c"}, "policy": {**policy, "digest": "d"}}
    facts |= {"samples": {"count": 160, "questions": questions}} if more is None else more
    writer.write(
        "run", run="abc", command=command, model=model, data=data, seed=0, dtype="float32", attention="sdpa",
        base_model={"architecture": "Llava", "num_layers": DEPTH}, hardware="a made-up machine", provenance=facts,
        options={"name": "gates", "max_new_tokens": 32, **options}, versions={"lookaway": version}, argv=["lookaway"],
        created="2026-01-01T00:00:00+00:00", allowed_other_model=[],
    )  # fmt: skip


def write_eval(folder, rows, scorer="exact", **facts):
    """`rows`: variant -> numbers; the variant 'gates' is the policy."""
    with RecordWriter(folder / "records.jsonl") as writer:
        header(writer, **facts)
        for variant, row in rows.items():
            more = {"scorer": scorer, "totals": {}} if variant == "gates" and scorer else {}
            writer.write("summary", variant=variant, rows=[row], can_exit=False, **more)
    return folder


def write_fit(folder, **facts):
    with RecordWriter(folder / "held-out.jsonl") as writer:
        header(writer, "fit", **facts)
        for name, row in (("this policy", numbers(0.3, 0.97, 0.89)), ("uniform tokens", numbers(0.3, 0.9, 0.8))):
            writer.write("beside", name=name, own_cost=False, scorer="exact", split="test-seen", families=[row],
                         accuracy=[row["accuracy_with"], 0.75, 0.95],
                         policy={"name": SCHEDULE["name"], "config": SCHEDULE["settings"]})  # fmt: skip
    return folder


def write_tasks(folder, tasks=("gqa", "pope"), **facts):
    more = {"questions": {task: f"{task}-documents" for task in tasks}, "harness": "lmms-eval 0.7.3"}
    with RecordWriter(folder / "records.jsonl") as writer:
        header(writer, data=",".join(tasks), more=more, **facts)
        rows = [numbers(0.55, 0.96, 0.6, 0.61, 200, family) for family in ("all", *tasks)]
        writer.write("summary", variant="gates", rows=rows, can_exit=False)
    return folder


def write_board_folders(folder):
    """Five folders: of one model and set of samples three, then tasks, then another model."""
    return [
        write_eval(folder / "a", {"gates": numbers(0.2, 0.91, 0.85), "uniform tokens": numbers(0.2, 0.8, 0.7)}),
        write_eval(folder / "b", {"gates": numbers(0.55, 0.965, 0.88)}, policy=FASTV, model="models/llava"),
        write_fit(folder / "c"),
        write_tasks(folder / "d", policy=FASTV),
        write_eval(
            folder / "e", {"gates": numbers(0.4, 0.9, 0.85)}, weights="99999999", model="OpenGVLab/InternVL2-1B"
        ),
    ]
