"""A measured number (a percentage, a factor) stands in a section that says where it comes from."""

import re

import pytest
from documents import NAMES, sections

NUMBER = re.compile(r"(?<![\w-])\d[\d.,]*\s?%|(?<![\w-])\d[\d.]*\s?[×x](?! ?\d)(?=[\s,.;)|]|$)", re.MULTILINE)
SOURCE = re.compile(
    r"`lookaway [a-z]+[ `]|^lookaway [a-z]+ |python benchmarks/|make [a-z]+|benchmarks/results/|results\.md|"  # ours
    r"[Bb]y arithmetic|arXiv|[Pp]ublished",  # computed, or somebody else's
    re.MULTILINE,
)
EXCEPTIONS = {
    ("docs/choose.md", "What your data can show"): "arithmetic that the section spells out",
    ("docs/measuring.md", "Answers"): "the level of an interval, and a normal form",
    ("docs/findings.md", "What is measured"): "the level of an interval",
}
"""(page, heading) -> why it needs none."""
OLD = re.compile(
    r"not yet measured|slow twin|\bpromises?\b|told apart|\brooms\b|\bhosts\b|\barms?\b|view\.attended|looks_at|«|"
    r"by chance only",
    re.IGNORECASE,
)
"""Names of version 0.1, claims that were once stale, and words that readers stumbled over."""


@pytest.mark.parametrize("name", NAMES)
def test_numbers_name_their_command_or_file(name):
    for section in sections(name):
        text = re.sub(r"^```.*?^```", "", section.text, flags=re.DOTALL | re.MULTILINE)
        if (name, section.heading) not in EXCEPTIONS and NUMBER.search(text):
            assert SOURCE.search(section.text), (
                f"{name}, '{section.heading}': which command or results file gives {NUMBER.findall(text)}?"
            )


def test_exceptions_are_still_needed():
    for page, heading in EXCEPTIONS:
        (section,) = [section for section in sections(page) if section.heading == heading]
        assert NUMBER.search(section.text), f"{page}, {heading}: no number is left"


def test_what_was_once_wrong_would_be_found():
    assert NUMBER.findall("keeps 83 % of 29") == ["83 %"]
    assert NUMBER.findall("1.39 × as fast, 2.2x") == ["1.39 ×", "2.2x"]
    assert not SOURCE.search("half of the tokens, 91.7 % right")
    assert OLD.search("**Not yet measured** on the default model")


@pytest.mark.parametrize("name", NAMES)
def test_old_names_and_stale_claims_are_gone(name):
    assert not [(s.heading, OLD.findall(s.text)) for s in sections(name) if OLD.search(s.text)]
