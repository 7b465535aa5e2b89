"""A folder of installed packages, as an installer leaves it."""

from __future__ import annotations


def install(site, name, origin, files):
    """Lay out an installed package: its files, the list of them, and where they came from."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    for file, text in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text, encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in files), encoding="utf-8")
    if origin is not None:
        (info / "direct_url.json").write_text(origin, encoding="utf-8")
