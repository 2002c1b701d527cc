"""Input that once ended in a traceback or a wrong sample: each is read right, or refused with file, place and cure."""

from __future__ import annotations

import json

import pytest

from lookaway.core.errors import DataError
from lookaway.data.formats import read_samples

DEEP = 100_000


def chat(content, **more):
    return json.dumps({"messages": [{"role": "user", "content": content}], **more})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a", "id": ' + "9" * 5000 + "}", "a number has too many digits; write it as a string"),
        ('{"question": ' + "[" * DEEP + "]" * DEEP + "}", "nested too deeply"),
        (r'{"question": "a", "id": "\ud83d"}', r"half a surrogate pair in '\\ud83d'"),
        (r'{"question": "a", "\udc00": 1}', "half a surrogate pair"),
        ('{"question": "a", "answer": NaN}', "NaN is no JSON; write a number, a string or null"),
        ('{"question": "a", "answer": true}', "'answer' must be text or a number, not true or false. Write 'yes'"),
        ('{"question": "a", "answer": ["b"]}', "'answer' must be text or a number, not list"),
        ('{"question": ["a"]}', "'question' must be text"),
        ('{"question": "a", "image": 7}', "an image must be a path, not '7'"),
        ('{"question": "a", "images": [null]}', "an image must be a path"),
        ('{"question": "a", "answers": "b"}', "'answers' must be a list"),
        ('{"question": "a", "id": {}}', "'id' must be text"),
        ('{"question": null}', "has the keys"),
        ("null", "is no JSON object"),
        ('["what?"]', "is no JSON object"),
        (chat(None), "'content' must be text or a list of parts, not null"),
        (chat(["what?"]), "a part must be"),
        (chat([{"type": "text"}]), "a part must be"),
        (chat([{"type": "video"}, {"type": "text", "text": "?"}]), "type 'video'; lookaway takes images and text"),
        (json.dumps({"messages": ["what?"]}), "'messages' must be a list of objects"),
        (json.dumps({"messages": "what?"}), "'messages' must be a list of objects"),
        (json.dumps({"messages": [{"role": "robot", "content": "a"}]}), "must be system, user or assistant"),
        (json.dumps({"conversations": [{"from": "human", "value": None}]}), "'conversations' must be a list"),
    ],
)
def test_odd_entries_are_refused_with_file_and_line(tmp_path, line, message):
    file = tmp_path / "d.jsonl"
    file.write_text('{"question": "right"}\n' + line)
    with pytest.raises(DataError, match=message) as caught:
        read_samples(file)
    assert str(caught.value).startswith(f"{file}, line 2")
    assert "\n" not in str(caught.value)


def test_what_is_odd_and_right(tmp_path):
    lines = [
        {"question": "", "id": 77, "answer": 0.5},
        {"question": "\U0001f600", "answer": None, "image": None, "id": None},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}], "family": 3},
        {"question": "who?", "answers": [{"answer": "a"}, {"answer": "b"}, {"answer": "b"}], "scorer": "vqa"},
    ]
    escaped = json.dumps(lines[1])  # a whole surrogate pair, escaped
    assert "\\ud83d" in escaped
    (tmp_path / "d.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    first, second, third, fourth = read_samples(tmp_path / "d.jsonl")
    assert (first.id, first.answer, first.question) == ("77", "0.5", "")
    assert (second.question, second.answer, second.id) == ("\U0001f600", None, "3")  # its line
    assert (third.family, len(third.messages)) == ("3", 2)
    assert (fourth.answer, fourth.meta["scorer"]) == ("b", "vqa")
