"""The exact question and generation settings of public tasks, as lmms-eval 0.7.3 asks; our own readers ask the same.

`prompts.json` holds what each task made of one made-up document: a version of lmms-eval that asks otherwise is seen.
"""

from __future__ import annotations

import json
from pathlib import Path

import lmms_eval.tasks
import pytest
from lmms_eval.utils import load_yaml_config

SNAPSHOT = Path(__file__).parent / "prompts.json"
TASKS = {
    "gqa": "gqa/gqa.yaml",
    "textvqa_val": "textvqa/textvqa_val.yaml",
    "pope": "pope/pope.yaml",
    "mme": "mme/mme.yaml",
    "vqav2_val": "vqav2/vqav2_val.yaml",
    "scienceqa_img": "scienceqa/scienceqa_img.yaml",
    "docvqa_val": "docvqa/docvqa_val.yaml",
    "ocrbench": "ocrbench/ocrbench.yaml",
    "flickr30k_test": "flickr30k/flickr30k_test.yaml",
    "refcoco_bbox_val": "refcoco/refcoco_bbox_val.yaml",
    "mmbench_en_dev": "mmbench/mmbench_en_dev.yaml",
    "seedbench": "seedbench/seedbench.yaml",
    "mmvet": "mmvet/mmvet.yaml",
    "mmmu_val": "mmmu/mmmu_val.yaml",
    "ai2d": "ai2d/ai2d.yaml",
    "chartqa": "chartqa/chartqa.yaml",
    "realworldqa": "realworldqa/realworldqa.yaml",
    "hallusion_bench_image": "hallusion_bench/hallusion_bench_image.yaml",
}
"""Those of the papers' experiments too, but for MathVista's, which need a package that lmms-eval does not bring."""
DOCUMENT = {
    "question": "what is the BRAND? Please answer yes or no.",
    "hint": "Look at the label.",
    "choices": ["Nokia", "Sony"],
    "answer": 0,
    "ocr_tokens": ["NOKIA"],
    "L2-category": "x",
    **{letter: f"choice {letter}" for letter in "ABCD"},
    **{f"choice_{letter.lower()}": f"choice {letter}" for letter in "ABCD"},
    "bbox": [1.0, 2.0, 3.0, 4.0],
    "segmentation": [],
    "image": None,
    "index": 1,
    "category": "x",
    "source": "x",
    "split": "dev",
    "options": ["Nokia", "Sony"],
    "question_type": "multiple-choice",
    "id": "validation_x_1",
}


def asked(file):
    """(question, generation settings) of a task's YAML for the made-up document."""
    folder = Path(lmms_eval.tasks.__file__).parent
    config = load_yaml_config(str(folder / file), mode="full")
    special = (config.get("lmms_eval_specific_kwargs") or {}).get("default")
    to_text, document = config["doc_to_text"], dict(DOCUMENT)
    if "mmmu" in file:
        document["options"] = str(document["options"])  # its documents hold the list as text
    if not callable(to_text):
        return str(to_text), config.get("generation_kwargs")
    try:
        text = to_text(document, special)
    except TypeError:
        text = to_text(document)
    return text, config.get("generation_kwargs")


@pytest.mark.parametrize("task", TASKS)
def test_question_and_settings_of_a_task(task, monkeypatch):
    """What lmms-eval asks, and what our model passes on to `generate`."""
    from lookaway.evaluation.lmms.settings import generation

    monkeypatch.setenv("OPENAI_API_KEY", "none")  # MM-Vet's module makes its judge's client; nobody is asked
    text, settings = asked(TASKS[task])
    expected = json.loads(SNAPSHOT.read_text())[task]
    assert {"question": text, "generation": settings, "passed_on": generation(settings or {})} == expected


def test_answers_are_drawn_only_where_a_task_asks_for_it():
    """MM-Vet names a temperature and says not to sample; with the policy and without, chance would not be the same."""
    from lookaway.evaluation.lmms.settings import generation

    assert generation({"temperature": 0.2, "do_sample": False, "top_p": 1.0}) == {
        "do_sample": False, "max_new_tokens": 256,
    }  # fmt: skip
    assert generation({"temperature": 0.2, "max_new_tokens": 4}) == {
        "do_sample": True, "temperature": 0.2, "max_new_tokens": 4,
    }  # fmt: skip


def test_our_readers_ask_as_the_harness_does(tmp_path):
    from lookaway.data import load_samples

    question = DOCUMENT["question"]
    (tmp_path / "testdev_balanced_questions.json").write_text(
        json.dumps({"1": {"imageId": "n", "question": question, "answer": "yes"}})
    )
    (tmp_path / "TextVQA_0.5.1_train.json").write_text(
        json.dumps({"data": [{"question": question, "image_id": "i", "question_id": 1, "answers": ["a"]}]})
    )
    line = {"question_id": 1, "image": "c.jpg", "text": question, "label": "yes"}
    (tmp_path / "coco_pope_random.json").write_text(json.dumps(line))
    (tmp_path / "count").mkdir()
    (tmp_path / "count" / "1.jpg").write_bytes(b"")
    (tmp_path / "count" / "1.txt").write_text(f"{question}\tYes\n{question}\tNo\n")
    asked_of = {"image_id": 1, "question_id": 1, "question": question}
    (tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps({"questions": [asked_of]}))
    ours = {
        "vqav2_val": load_samples(f"vqav2:{tmp_path}", "test2015"),
        "gqa": load_samples(f"gqa:{tmp_path}", "test"),
        "textvqa_val": load_samples(f"textvqa:{tmp_path}", "train"),
        "pope": load_samples(f"pope:{tmp_path}", "random"),
        "mme": load_samples(f"mme:{tmp_path}", "count"),
    }
    for task, found in ours.items():
        assert found[0].question == asked(TASKS[task])[0], task


def test_every_task_of_the_papers_experiments_is_known():
    import yaml

    from lookaway.evaluation.lmms.tasks import known_tasks, task_manager

    folder = Path(__file__).parents[3] / "configs" / "paper"
    manager = task_manager()
    for file in sorted(folder.glob("*.yaml")):
        tasks = yaml.safe_load(file.read_text()).get("tasks", [])
        assert not tasks or known_tasks(tasks, manager) == tasks, file
