"""How `make docs` builds the manual. Nothing is fetched."""

import re
from importlib.metadata import version as installed
from typing import Any

project = "scFL-Green"
author = "the scFL-Green authors"
copyright = "the scFL-Green authors, MIT licence"
version = release = installed("scfl-green")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_copybutton"]
exclude_patterns = ["_build", "sweeps"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# The API reference: a page for every package and public module, found by walking the package, whatever they are called.
autosummary_generate = True
templates_path = ["_templates"]
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "sphinx_book_theme"
html_title = "scFL-Green"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],  # the sidebar has a search box already
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_issues_button": False,
    "use_repository_button": False,
}
# Commands are copied without their prompts and outputs.
copybutton_exclude = ".linenos, .gp, .go"


def escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with ``code``: the bars of |x|, stars and trailing underscores are no markup."""
    parts = re.split(r"(``.*?``)", "\n".join(lines), flags=re.DOTALL)
    parts[::2] = [re.sub(r"[|*]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape)
