"""Every overlay, rendered once a session."""

import copy
from collections.abc import Callable

import pytest

from tests.k8s.rendering import OVERLAYS, ROOT, Document, render


@pytest.fixture(scope="session")
def _rendered() -> dict[str, list[Document]]:
    return {name: render(ROOT / "k8s" / "overlays" / name) for name in OVERLAYS}


@pytest.fixture
def rendered(_rendered: dict[str, list[Document]]) -> Callable[[str], list[Document]]:
    """Documents of an overlay by its name, as a copy that a test may spoil."""
    return lambda overlay: copy.deepcopy(_rendered[overlay])


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, rendered: Callable[[str], list[Document]]) -> list[Document]:
    """Documents of each overlay in turn."""
    return rendered(request.param)
