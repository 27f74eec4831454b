"""Runs the recipes of docs/frameworks.md, so that the page shows what was tested."""

import re

from support.paths import ROOT

PAGE = ROOT / "docs/frameworks.md"


def recipe(heading: str, number: int = 1) -> str:
    """Return the source of a Python block below a heading of the page. The first block has the number 1."""
    section = re.search(rf"(?ms)^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"))
    assert section, f"the page has no heading {heading}"
    return re.findall(r"(?ms)^```python[^\n]*\n(.*?)^```$", section[1])[number - 1]


def run(heading: str, number: int = 1, **names: object) -> dict:
    """Run a block that needs no event loop, and return its names. *names* are those that the block finds."""
    namespace = {"__name__": "recipe", **names}
    program = compile(recipe(heading, number), f"{PAGE.name}, {heading}", "exec")
    exec(program, namespace)
    return namespace
