# SPDX-License-Identifier: MIT
"""Sphinx settings. `make docs` builds; nothing is fetched, and no warning passes."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import valkka_async  # noqa: E402

project = "valkka-async"
copyright = "the valkka-async authors, MIT licence"
version = release = valkka_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "examples",
    "people",
    "pictures",
    "reference",
]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# In docstrings `single quotes of this kind` are code.
default_role = "literal"
smartquotes = False  # b"" must stay
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # 0o600 and not 384
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
nitpicky = True
# Other projects' names are not linked: that would need their inventories, and so the network.
nitpick_ignore_regex = [
    ("py:.*", r"(asyncio|av|collections|dataclasses|fractions|numpy|np|os|pathlib|types|typing)\b.*"),
    ("py:.*", r"(NDArray|DTypeLike|TracebackType|Fraction|Any|Never|Self|.*\bJournal)"),
]

html_theme = "furo"
html_title = f"valkka-async {release}"
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {
        "va-line": "#6b7280",
        "va-program": "#eef2f7",
        "va-ring": "#dbeafe",
        "va-leased": "#fde7c3",
        "va-newest": "#d1f0d8",
        "va-writing": "#f6d5d5",
    },
    "dark_css_variables": {
        "va-line": "#9aa3b2",
        "va-program": "#2a2f3a",
        "va-ring": "#1e3a5f",
        "va-leased": "#5a4215",
        "va-newest": "#1f4a2c",
        "va-writing": "#5c2626",
    },
}
