"""Policy files that people write or break: one line that names file, key, value and cure, and never a traceback."""

import json

import pytest

import lookaway as la
from lookaway.core.errors import LookawayError

WRONG = [
    ("exit-at", {"layer": 2.0}, r"'layer' is 2\.0, but must be .*whole number.*Write 2\."),
    ("exit-at", {"layer": "2"}, r"'layer' is '2', but must be .* Write 2 without quotes\."),
    ("exit-at", {"layer": True}, r"'layer' is True, but must be"),
    ("exit-at", {"layr": 2}, r"there is no setting 'layr'\. Did you mean 'layer'\? Known: layer\."),
    ("exit-at", None, r"the setting 'layer' is missing\. Add it"),
    ("exit-at", [2], r"'config' is \[2\], but must map settings to values"),
    ("vtw", {"layer": 2.5}, r"'layer' is 2\.5, but must be a whole number\."),
    ("keep-schedule", {"keep": "all"}, r"'keep' is 'all', but must be a list"),
    ("keep-schedule", {"keep": [1.0, None]}, r"'keep' is \[1\.0, None\], but must be a list"),
    ("keep-schedule", {"keep": [1.0, 0.5], "ranking": 3}, r"'ranking' is 3, but must be a text\."),
    ("random-exit", {"exits": [1, 2], "seed": "x"}, r"'seed' is 'x', but must be a whole number\. Correct"),
    ("fastv", {"layer": None}, r"'layer' is None, but must be"),
    ("nothing", {}, r"No policy named 'nothing'"),
    (7, {}, r"'policy' is 7, but must be the name of a policy"),
    ("chain", None, r"'parts' is missing: a chain needs a list of \{policy: NAME, config"),
    ("chain", {"parts": "a"}, r"'parts' is 'a': a chain needs a list"),
    ("chain", {"parts": ["exit-at"]}, r"part 1 is 'exit-at': 'parts' is a list of"),
    ("chain", {"parts": [{"policy": "exit-at", "config": {"layer": 3}}, {"policy": "vtw", "config": {"layer": "3"}}]},
     r"part 2: vtw: 'layer' is '3', but must be a whole number\. Write 3 without quotes\."),
]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(("name", "config", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_file(tmp_path, form, name, config, message):
    document = {"policy": name, "config": config}
    if form == "json":
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**document, "base_model": None}))
        source = tmp_path
    else:
        source = file = tmp_path / "p.yaml"
        file.write_text(json.dumps(document))  # JSON is YAML too
    with pytest.raises(LookawayError, match=message) as caught:
        la.load(source)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("threshold", "0.5", r"'threshold' is '0\.5', but must be .* Write 0\.5 without quotes\."),
     ("min_layer", 1.0, r"'min_layer' is 1\.0, but must be a whole number\. Write 1\."),
     ("layers", 2, r"'layers' is 2, but must be a list"),
     ("training", [], r"'training' is \[\], but must be a mapping"),
     ("mood", 1, r"This is no visual-exit policy"), ("gates", None, r"config\.json: ")],
)  # fmt: skip
def test_gates(tmp_path, key, value, message):
    folder = la.VisualExit(la.ExitGates(4, (1, 2), width=2)).save_pretrained(tmp_path)
    document = json.loads((folder / "config.json").read_text())
    document["config"][key] = value
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(LookawayError, match=message):
        la.load(folder)


def test_the_fingerprint_of_the_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"policy": "exit-at", "config": {"layer": 1}, "base_model": {
        "architecture": "X", "num_layers": "4", "hidden_size": 8, "vocab_size": 9}}))  # fmt: skip
    with pytest.raises(LookawayError, match=r"config\.json: base_model: 'num_layers' is '4'.*Write 4 without quotes"):
        la.load(tmp_path)


def test_what_is_right_still_loads(tmp_path):
    """A whole number where a number is meant, no settings at all, an entry a row."""
    (tmp_path / "a.yaml").write_text("policy: keep-all\nconfig:\n")
    (tmp_path / "b.yaml").write_text("policy: exit-at\nconfig: {layer: [1, null]}\n")
    (tmp_path / "c.yaml").write_text("policy: keep-schedule\nconfig: {keep: [1.0, 4, 2]}\n")
    (tmp_path / "d.yaml").write_text(
        "policy: chain\nconfig: {parts: [{policy: keep-all}, {policy: vtw, config: {layer: 2}}]}\n"
    )
    assert la.load(tmp_path / "a.yaml") == la.KeepAll()
    assert la.load(tmp_path / "b.yaml") == la.ExitAt([1, None])
    assert la.load(tmp_path / "c.yaml").keep == (1.0, 4, 2)
    assert la.load(tmp_path / "d.yaml") == la.chain(la.KeepAll(), la.VTW(2))
