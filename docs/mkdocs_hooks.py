"""MkDocs hooks: files of the repository that belong to the site but lie outside of `docs/`.

Pages link to them by their place in the repository (`../dashboards/runbooks/Watchdog.md`), so that a link works in a
checkout as well. In the site these files are below `docs/`, and the links are rewritten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
#: From the place in the repository, a file or a folder, to that in the site.
INCLUDED = {
    "dashboards/pictures": "pictures/dashboards",
    "dashboards/runbooks": "runbooks",
    "dashboards/examples": "examples",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the files to the site."""
    for source, target in INCLUDED.items():
        path = ROOT / source
        for one in [path] if path.is_file() else sorted(path.rglob("*.*")):
            name = target if one == path else f"{target}/{one.relative_to(path).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(one)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links of a page at the places in the site."""
    for source, target in INCLUDED.items():
        markdown = re.sub(rf"\]\(\.\./{re.escape(source)}\b", f"]({target}", markdown)
    # From a file at the top of the repository.
    return markdown.replace("](docs/", "](")
