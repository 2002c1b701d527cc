"""Two public sets of yes-or-no questions, for tests only: POPE and MME, as their authors publish them.

Sources: Li et al., *POPE*, arXiv 2305.10355 (`coco_pope_KIND.json`, JSON lines, and COCO's `val2014/`). Fu et al.,
*MME*, arXiv 2306.13394: a folder for each task, and for each picture, beside it or in `questions_answers_YN/`, a text
file of two lines 'question TAB Yes' or 'question TAB No'.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DataError
from ..core.record import Sample
from .fields import text_field
from .gqa import short_question
from .tables import read_json_lines, read_text

__all__ = ["read_mme", "read_pope"]

KINDS = ("random", "popular", "adversarial")
PICTURES = (".jpg", ".jpeg", ".png")
ASKED = " Please answer yes or no."


def read_pope(folder: str | Path, split: str = "test") -> list[Sample]:
    """POPE's questions: all three kinds, or one of 'random', 'popular', 'adversarial'; the kind is a sample's family.

    Raises:
        DataError: a split to learn from was asked for, or a file is missing, damaged, or lacks a field or has one of
            another type.
    """
    folder = Path(folder)
    found = []
    for kind in _test_only(split, "POPE", KINDS):
        file = folder / f"coco_pope_{kind}.json"
        for line, entry in read_json_lines(file):
            where = f"{file}, line {line}"
            name, text = f"val2014/{text_field(entry, 'image', where)}", text_field(entry, "text", where).strip()
            identifier, label = f"{kind}-{text_field(entry, 'question_id', where)}", text_field(entry, "label", where)
            if not _yes_or_no(label):
                raise DataError(f"{where}: 'label' must be yes or no, not {label[:40]!r}.")
            meta = {"question": text, "image_names": (name,), "scorer": "pope"}
            found.append(Sample(identifier, short_question(text), (str(folder / name),), label, kind, meta))
    return found


def read_mme(folder: str | Path, split: str = "test") -> list[Sample]:
    """MME's questions, two a picture; a sample's family is its task, or give one task's name as the split.

    The prompt is lmms-eval's: the file's request to answer yes or no gives way to the request for a single word.

    Raises:
        DataError: a split to learn from was asked for, no task's folder is there, `folder` is the one above the tasks',
            or a file has not two questions that are answered by yes or no.
    """
    folder = Path(folder)
    inside = folder.iterdir() if folder.is_dir() else ()
    tasks = sorted(path.name for path in inside if path.is_dir() and not path.name.startswith("."))
    if not tasks:
        raise DataError(
            f"There is no folder of an MME task in {folder}. docs/data.md shows the layout that is expected."
        )
    found = []
    for task in _test_only(split, "MME", tuple(tasks)):
        pictures = sorted(path for path in (folder / task).rglob("*") if path.suffix.lower() in PICTURES)
        if not pictures:
            raise DataError(f"{folder / task} holds no pictures ({', '.join(PICTURES)}).")
        for picture in pictures:
            if picture.parent not in (folder / task, folder / task / "images"):
                raise DataError(
                    f"{picture} is in no place of MME's task {task!r}: pictures lie in TASK/ or TASK/images/. If "
                    f"{folder / task} holds the tasks' folders, give that: mme:{folder / task}."
                )
            beside = picture.with_suffix(".txt")
            file = beside if beside.exists() else folder / task / "questions_answers_YN" / beside.name
            lines = [line.rstrip().rsplit("\t", 1) for line in read_text(file).split("\n") if line.strip()]
            if len(lines) != 2 or not all(len(line) == 2 and _yes_or_no(line[1]) for line in lines):
                raise DataError(f"{file} must hold two lines, each 'question TAB Yes' or 'question TAB No'.")
            name = str(picture.relative_to(folder))
            for number, (text, answer) in enumerate(lines):
                meta = {"question": text, "pair": name, "image_names": (name,), "scorer": "mme"}
                messages = short_question(text.strip().replace(ASKED, ""))
                found.append(Sample(f"{name}-{number}", messages, (str(picture),), answer.strip(), task, meta))
    return found


def _yes_or_no(answer: str) -> bool:
    """Whether the scorers of these sets can read it as the truth."""
    return answer.strip().rstrip(".").lower() in ("yes", "no")


def _test_only(split: str, name: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts that a split names; a set to test on has none to learn from."""
    if split in ("test", "all"):
        return parts
    if split in parts:
        return (split,)
    if split in ("train", "calibration"):
        raise DataError(f"{name} is for tests only: it has no split {split!r}. Learn and calibrate on other data.")
    raise DataError(f"No split {split!r} of {name}; there are test, all and {', '.join(parts)}.")
