"""Build the pages for ``make docs`` with Sphinx; every warning is an error."""

import emit

project = "Emit"
version = release = emit.__version__
copyright = "2012-2013 Brian Hicks, and the authors of Emit"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["pictures"]

# RemoteError.type and Cause.type are what they are called on the wire; type[...] is Python's.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"Emit {version}"

# Links within a page go to its headings, as on GitHub.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

HOME = "https://github.com/emit-graph/emit/blob/main/"


def leave_the_pages(app, name, source):
    """Point links to files outside docs/ at the repository; the protocol is a page here as well."""
    text = source[0].replace("](../runtimes/PROTOCOL.md", "](protocol.md")
    source[0] = text.replace("](../", f"]({HOME}")


def skip_fields(app, what, name, member, skip, options):
    """Leave out the fields of a NamedTuple: its docstring describes them."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("source-read", leave_the_pages)
    app.connect("autodoc-skip-member", skip_fields)
