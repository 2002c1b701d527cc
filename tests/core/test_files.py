"""Atomic writing: half a file or folder is never seen, and errors leave what was there."""

import json

import pytest
from safetensors import SafetensorError

from lookaway.core.errors import LookawayError
from lookaway.core.files import atomic_directory, atomic_path, write_json, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_text_and_json(tmp_path):
    assert write_text(tmp_path / "new" / "a.txt", "größer").read_text(encoding="utf-8") == "größer"
    path = write_json(str(tmp_path / "b.json"), {"ü": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": 1}
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_or_a_kill_leaves_what_was_there(tmp_path, error):
    write_text(tmp_path / "a", "old")

    def stop_half_way():
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            assert (tmp_path / "a").read_text() == "old"
            raise error

    with pytest.raises(error):
        stop_half_way()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_told_in_one_way(tmp_path, error):
    def fill():
        with atomic_path(tmp_path / "a"):
            raise error

    with pytest.raises(LookawayError, match=r"Could not write .*: No space left on device\. Nothing was replaced"):
        fill()
    assert names(tmp_path) == []


def test_a_target_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LookawayError, match="Could not write"):
        write_text(tmp_path / "file" / "inside.txt", "")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_directory(tmp_path / "new" / "folder") as temporary:
        write_text(temporary / "a", "1")
        assert not (tmp_path / "new" / "folder").exists()
    assert names(tmp_path / "new" / "folder") == ["a"]

    def fail():
        with atomic_directory(tmp_path / "other") as temporary:
            write_text(temporary / "a", "1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["new"]


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path):
    write_text(tmp_path / "mine" / "a", "1")
    for target in (tmp_path / "mine", tmp_path / "mine" / "a"):
        with pytest.raises(LookawayError, match="exists already"), atomic_directory(target):
            pass
    (tmp_path / "empty").mkdir()
    with atomic_directory(tmp_path / "empty") as temporary:
        write_text(temporary / "b", "")
    assert names(tmp_path / "empty") == ["b"]
    assert names(tmp_path / "mine") == ["a"]
