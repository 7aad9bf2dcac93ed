"""How the site is built: `python -m sphinx -W docs docs/_build`."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from _evidence import evidence  # noqa: E402
from _gallery import gallery  # noqa: E402

import gapjax  # noqa: E402

project = "gapjax"
author = copyright = "The gapjax authors"
version = release = gapjax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "README.md"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# Notebooks are shown with the outputs they are committed with; a test runs them.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables of results, too
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = evidence() | {"gallery": gallery()}

# Fields of records stand in the text of their class, once.
autodoc_default_options = {"members": True}
autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_use_admonition_for_examples = False
napoleon_custom_sections = [("References", "notes_style")]
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries = False

html_theme = "sphinx_book_theme"
html_title = f"gapjax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Tables of results have all the width there is.
_wide = {f"papers/{page.stem}": [] for page in (ROOT / "docs" / "papers").glob("*.md")}
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "secondary_sidebar_items": {"**": ["page-toc"], **_wide},
}
html_show_sourcelink = False


def _is_field(app: object, what: str, name: str, obj: object, skip: bool, options: object) -> bool:
    """Fields of a NamedTuple come with a text that says their number."""
    return skip or type(obj).__name__ == "_tuplegetter"


def setup(app: object) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-skip-member", _is_field)  # type: ignore[attr-defined]
