"""Extends Sphinx for the site: names lead to the reference, and diagrams are drawn.

A name in backticks leads to its entry, in docstrings and in the pages. A name without an entry stays as it is: it may
be a file, a command, or a name of another package.
"""

import enum
import html
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole

# Names in the pages that can only be of the reference: a class, its member, or a name with its module.
_NAME = re.compile(r"(?:frameseal(?:\.\w+)+|[A-Z]\w+(?:\.\w+)?)(?:\(\))?")
MAX_UNBROKEN = 16
_PAGE = re.compile(r"\bdocs/([\w/-]+)\.md\b")


class Diagram(SphinxDirective):
    """A diagram of mermaid, which the browser draws. Without JavaScript its text is shown."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the text of the diagram, and note that its page needs the script."""
        self.env.metadata[self.env.docname]["diagrams"] = True
        text = html.escape("\n".join(self.content), quote=False)
        return [nodes.raw("", f'<pre class="mermaid">{text}</pre>', format="html")]


class Name(SphinxRole):
    """The default role of docstrings: a name, which leads to its entry if it has one."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return a reference to the name, from the module and class that it stands in."""
        return [_reference(self.text, self.env, nodes.literal("", self.text))], []


def _reference(name: str, env: BuildEnvironment, shown: nodes.literal) -> addnodes.pending_xref:
    reference = addnodes.pending_xref(
        "",
        shown,
        refdomain="py",
        reftype="obj",
        reftarget=name.removesuffix("()"),
        refexplicit=True,
        refdoc=env.docname,
    )
    reference["py:module"] = env.ref_context.get("py:module")
    reference["py:class"] = env.ref_context.get("py:class")
    reference["frameseal"] = True
    return reference


def link_names(app: Sphinx, tree: nodes.document) -> None:
    """Make references of the names in a page. Look a type up by its whole name: `bytes` is not a field of a class."""
    for reference in tree.findall(addnodes.pending_xref):
        if reference.get("refdomain") == "py" and reference["reftype"] in ("class", "exc"):
            reference.attributes.pop("refspecific", None)
            reference.attributes.pop("py:class", None)
    for literal in list(tree.findall(nodes.literal)):
        inside = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.download_reference)
        if isinstance(literal.parent, inside) or not _NAME.fullmatch(literal.astext()):
            continue
        literal.replace_self(_reference(literal.astext(), app.env, literal.deepcopy()))


def break_paths(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Let the browser break long paths in tables where they have a sign, so that a column of them stays narrow."""
    for cell in tree.findall(nodes.entry):
        for literal in list(cell.findall(nodes.literal)):
            text = html.escape(literal.astext(), quote=False)
            if len(text) > MAX_UNBROKEN and not isinstance(literal.parent, nodes.reference):
                broken = re.sub(r"(?<=[/_.,=-])(?=\w)|(?<=::)", "<wbr>", text)
                literal.replace_self(nodes.raw("", f'<code class="literal">{broken}</code>', format="html"))


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Node) -> nodes.Node | None:
    """Find the entry of a name that autodoc writes with its private module. Leave names of other packages alone."""
    if node["refdomain"] != "py":
        return None
    target = str(node["reftarget"])
    domain = env.domains.python_domain
    tail = target.rpartition(".")[2]
    for name in (f"frameseal.{target}", f"frameseal.{tail}", f"frameseal._native.{tail}"):
        if name in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, shown)
    # A private name or another package's: the text alone.
    return shown


def describe(app: Sphinx, *described: Any) -> None:
    """Let a page that a docstring names be a link, and leave out what Python says of the fields of named tuples."""
    lines: list[str] = described[-1]
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    lines[:] = [_PAGE.sub(r":doc:`/\1`", line) for line in lines]


def sign(app: Sphinx, what: str, name: str, obj: Any, *others: Any) -> tuple[str, None] | None:
    """Leave out how an enumeration is called: nobody makes a member."""
    return ("", None) if inspect.isclass(obj) and issubclass(obj, enum.Enum) else None


def add_diagrams(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Load the script for diagrams on the pages that have one."""
    if app.env.metadata.get(page, {}).get("diagrams"):
        app.add_js_file("mermaid.min.js")
        app.add_js_file("diagrams.js")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_role("name", Name())
    app.add_directive("mermaid", Diagram)
    app.connect("doctree-read", link_names)
    app.connect("doctree-resolved", break_paths)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-process-signature", sign)
    app.connect("html-page-context", add_diagrams)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
