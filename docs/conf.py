"""Sphinx's settings. `_ext/reference_tables.py` writes the tables of settings, metrics and options."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from server import __version__  # noqa: E402 - found by the line above

project = "Hedgerow"
author = "The Hedgerow developers"
copyright = "2026, The Hedgerow developers"
version = release = __version__

extensions = ["reference_tables", "faults_table", "sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
exclude_patterns = ["_build", "_ext"]
default_role = "code"

html_theme = "furo"
html_title = f"Hedgerow {version}"
html_static_path = ["_static"]
html_copy_source = False
