"""The documentation as the tests read it: pages, sections, blocks of code, and the commands that they show."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@dataclass(frozen=True)
class Section:
    page: str
    heading: str
    text: str


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def sections(name):
    """The page cut at its headings; '#' inside of code blocks is no heading."""
    found, heading, lines, code = [], "", [], False
    for line in read(name).splitlines():
        code ^= line.startswith("```")
        if re.match(r"#{1,6} ", line) and not code:
            found.append(Section(name, heading, "\n".join(lines)))
            heading, lines = line.lstrip("# "), []
        else:
            lines.append(line)
    return [*found, Section(name, heading, "\n".join(lines))]


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.DOTALL | re.MULTILINE)


def commands(name):
    """Every `lookaway ...` of the page, in blocks (with continued lines) and between backticks."""
    found = []
    for block in re.findall(r"^```(?:bash|)\n(.*?)^```", read(name), re.DOTALL | re.MULTILINE):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line.split("#")[0].strip() for line in lines if line.strip().startswith("lookaway ")]
    prose = re.sub(r"^```.*?^```", "", read(name), flags=re.DOTALL | re.MULTILINE)
    found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose) if code.startswith("lookaway ")]
    return found
