"""Hooks of mkdocs.yml: links to files outside docs/ go to the repository, and the API pages list every public name."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

import lookaway

LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)([^)]*\))")

API = {
    "attach": ("Attach", "Load a model, attach a policy to it, run the reference implementation, merge adapters.",
               "models engine"),
    "policies": ("Policies", "What can be attached. `la.policies()` lists them; `la.load` reads a saved one.",
                 "policies"),
    "types": ("Types", "What a policy sees and answers, what a run leaves behind, and learned parts.", "core modules"),
}  # fmt: skip
"""Page -> title, introduction, packages whose public names it shows."""

MORE = {
    "attach": ["lookaway.engine.attachment.Attachment", "lookaway.anatomy.find.anatomy_of",
               "lookaway.anatomy.base.Anatomy"],
    "types": ["lookaway.core.cost.Cost", "lookaway.core.base_model.BaseModel"],
}  # fmt: skip
"""What these return."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """`../benchmarks/x.py` in docs/results.md is a file of the repository, not of the site."""
    folder = posixpath.dirname("docs/" + page.file.src_uri)

    def outside(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if path.startswith("docs/"):
            return match[0]
        return f"{match[1]}{config['repo_url']}/blob/main/{path}{match[3]}"

    return LINK.sub(outside, markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add the API pages."""
    shown = set()
    for page, (title, introduction, packages) in API.items():
        names = [name for name, home in lookaway._HOME.items() if home.split(".")[1] in packages.split()]
        shown.update(names)
        paths = [*(f"{lookaway._HOME[name]}.{name}" for name in names), *MORE.get(page, ())]
        entries = "\n\n".join(f"::: {path}" for path in paths)
        content = f"# {title}\n\n{introduction}\n\n{entries}\n"
        files.append(File.generated(config, f"api/{page}.md", content=content))
    missing = set(lookaway._HOME) - shown
    if missing:
        raise ValueError(f"Public names that no API page shows: {sorted(missing)}. Add their package to API.")
    return files
