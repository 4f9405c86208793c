"""Sphinx configuration; builds offline and without warnings."""

import re

import sklearn_ccx

project = "sklearn_ccx"
author = "sklearn_ccx developers"
project_copyright = "2026, sklearn_ccx developers"
release = sklearn_ccx.__version__
version = ".".join(release.split(".")[:2])

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["templates"]
exclude_patterns = ["_build", "templates", "sg_execution_times.rst"]
default_role = "literal"
root_doc = "index"
nitpicky = False

# API pages
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Gallery
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"[\\/]plot_",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_ccx",),
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}

# HTML
html_theme = "pydata_sphinx_theme"
html_title = "sklearn_ccx"
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {
    "getting_started": [],
    "changelog": [],
    "paper": [],
}


def unlink_inherited_roles(app, what, name, obj, options, lines):
    """Turn links of docstrings inherited from scikit-learn into plain text.

    They point into scikit-learn's own documentation, which is not part of this build.
    """
    if (getattr(obj, "__module__", None) or "").startswith("sklearn."):
        text = "\n".join(lines)
        text = re.sub(r":(?:ref|term):`([^`<]+?)\s*(?:<[^`>]*>)?`", r"\1", text)
        lines[:] = text.split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", unlink_inherited_roles, priority=900)
