"""Pages of docs/ that are built with the site."""

import re
from pathlib import Path


def built_pages(root: Path) -> list[str]:
    """Their paths: git ignores them."""
    return re.findall(r"^/(docs/\S+\.md)$", (root / ".gitignore").read_text("utf-8"), re.MULTILINE)
