"""Fixtures of tests that start processes."""

from __future__ import annotations

import pytest

from tests.serving import certificate


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Self-signed certificates `server`, `client`, `stranger` with their keys."""
    folder = tmp_path_factory.mktemp("certs")
    return {name: certificate(folder, name) for name in ("server", "client", "stranger")}
