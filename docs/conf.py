"""Settings of the site, which Sphinx builds from these pages and the docstrings: `make site`."""

import os
import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from numpydoc.docscrape import NumpyDocString
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

import xpcap

REPOSITORY = ""  # address of a folder of the default branch, once the project has one; ends with /
DOCS = Path(__file__).parent
FOLDERS = {  # captions of the sidebar, in its order
    "Start": "",
    "Tutorials": "tutorials",
    "How-to": "howto",
    "Explanation": "explain",
    "Reference": "reference",
}
API = "Python, from the docstrings"
# Commands of LaTeX that docutils lacks, in its own
SPELLINGS = {"dots": r"\ldots ", "mathrel": "", "textstyle": "", "Big": r"\Bigl"}

project = "xpcap"
author = "The xpcap authors"
copyright = author
version = release = xpcap.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc", "sphinx.ext.viewcode"]

# Markdown as code hosts read it: ```math fences, $...$ in a line, links to headings
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nitpicky = True  # a role that names nothing is an error
highlight_language = "none"  # of blocks that name no language: commands, output and equations

# Docstrings in NumPy's form, whose types are prose such as `array (N, D), float`
default_role = "code"
autodoc_member_order = "groupwise"
autodoc_typehints = "none"
autodoc_preserve_defaults = True  # METRICS, not all that it holds
numpydoc_show_class_members = False  # autodoc lists them
NumpyDocString.sections["Shapes"] = []  # known, and left to show_shapes

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]


def tables_of_contents(index: str) -> str:
    """Tables of contents, one a folder: first the pages that docs/index.md links, in its order."""
    linked = re.findall(r"\]\((\w[\w/.-]*)\.(?:md|ipynb)\)", index)
    files = [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    pages = sorted(
        (file.relative_to(DOCS).with_suffix("").as_posix() for file in files),
        key=lambda page: (linked.index(page) if page in linked else len(linked), page),
    )
    groups = {
        caption: [page for page in pages if Path(page).parent == Path(folder) and page != "index"]
        for caption, folder in FOLDERS.items()
    }
    groups[API] = [f"reference/api/{name}" for name in ("xpcap", "layers", "optim", "checks")]
    return "\n".join(
        "\n".join(("```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"))
        for caption, pages in groups.items()
        if pages
    )


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the sidebar, which leaves out the developers' pages: CONTRIBUTING.md links them."""
    if page == "index":
        source[0] += f"\n\n{tables_of_contents(source[0])}\n"
    if page.startswith("develop/"):
        source[0] = f"---\norphan: true\n---\n\n{source[0]}"


class LinksOutOfTheDocs(SphinxTransform):
    """Links to files of the repository: to their page there, or plain text without an address."""

    default_priority = 1  # before Sphinx copies what is linked to

    def apply(self) -> None:
        folder = (DOCS / self.env.docname).parent
        for kind in (addnodes.download_reference, addnodes.pending_xref):
            for link in list(self.document.findall(kind)):
                target, _, anchor = link["reftarget"].partition("#")
                path = Path(os.path.relpath(os.path.normpath(folder / target), DOCS.parent))
                if link.get("reftype") != "myst" or path.parts[0] == "docs":
                    continue
                if link.get("refdomain") == "doc":  # MyST takes the suffix off
                    path, anchor = path.with_suffix(".md"), link["reftargetid"] or ""
                address = f"{REPOSITORY}{path.as_posix()}{anchor and '#'}{anchor}"
                plain = nodes.reference(refuri=address) if REPOSITORY else nodes.inline()
                plain += link.children
                link.replace_self(plain)


def visit_math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Formulas as MathML, which browsers show without a script from another site."""
    formula = re.sub(r"\\([A-Za-z]+)", lambda m: SPELLINGS.get(m[1], m[0]), node.astext())
    try:
        block = isinstance(node, nodes.math_block)
        self.body.append(tex2mathml(formula, as_block=block))
    except MathError as error:
        logging.getLogger(__name__).warning(f"{error}: {formula}", location=node)
    raise nodes.SkipNode


def hide_fields(
    app: Sphinx, kind: str, name: str, one: object, skip: bool, options: object
) -> bool:
    """Fields of a NamedTuple have a docstring that says nothing."""
    return skip or str(one.__doc__).startswith("Alias for field number")


def show_shapes(
    app: Sphinx, kind: str, name: str, function: object, options: object, lines: list[str]
) -> None:
    """The section Shapes of a layer, below what numpydoc made of the others."""
    _, _, section = str(function.__doc__).partition("\nShapes\n------\n")
    if section:
        shapes, _, errors = section.partition("\n\n")
        shapes = textwrap.indent(shapes, "    ")
        lines += f"\n.. rubric:: Shapes\n\n::\n\n{shapes}\n\n{errors}\n".splitlines()


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("autodoc-skip-member", hide_fields)
    app.connect("autodoc-process-docstring", show_shapes, priority=501)  # numpydoc's is 500
    app.add_transform(LinksOutOfTheDocs)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
