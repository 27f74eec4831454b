"""Configures Sphinx for the site. `make docs` lays out the pages first (pages.py) and builds them without a network."""

import sys
from pathlib import Path

import frameseal

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402 - it lies beside this file

reference.use_stub()

project = "frameseal"
author = "the authors of frameseal"
project_copyright = "the authors of frameseal. Apache-2.0 OR MIT"
version = release = frameseal.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "extension"]
root_doc = "index"
default_role = "name"
highlight_language = "text"
add_function_parentheses = False
nitpicky = True

myst_heading_anchors = 6
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"frameseal {release}"
html_static_path = ["static", "../.stamps/mermaid/node_modules/mermaid/dist/mermaid.min.js"]
html_css_files = ["site.css"]
html_copy_source = False
html_domain_indices = False
html_show_sourcelink = False
html_theme_options = {"source_edit_link": "", "navigation_with_keys": True}
