"""The scripts of .ci are read by bash."""

from __future__ import annotations

import subprocess

from tests.checkout import ROOT

TRIXIE = (ROOT / ".ci" / "trixie").read_text(encoding="utf-8")


def test_scripts_are_valid_and_can_be_run():
    """Bash reads them, and they say what they need before they change anything."""
    for name in ("run", "trixie"):
        path = ROOT / ".ci" / name
        assert path.stat().st_mode & 0o111
        assert 0 == subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode
    assert TRIXIE.index('[ "$(id -u)" = 0 ] || fail') < TRIXIE.index("is_usable || make_root")
