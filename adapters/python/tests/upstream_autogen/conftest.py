"""The gate under which upstream's cases run, and the waivers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from waivers import waivers  # noqa: E402

PROFILE = Path(__file__).resolve().parents[4] / "policies" / "profiles" / "autogen.toml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = waivers()
    for item in items:
        if item.path.parent == HERE:
            case = f"{item.module.UPSTREAM}::{item.originalname}"  # type: ignore[attr-defined]
            if case in reasons:
                item.add_marker(pytest.mark.xfail(reason=reasons[case], strict=True))


@pytest.fixture(scope="session", autouse=True)
def gate_of_upstream(weir_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One gate for all cases, under the policy of the profile. Several cases import ``sys``, which it does not grant;
    that module is added here and nothing else is changed."""
    import substitutes

    from weir import Sidecar
    from weir._sidecar import derive

    folder = tmp_path_factory.mktemp("policy")
    path = derive(PROFILE, {}, [], [], folder)
    text = path.read_text("utf-8")
    assert text.count('"string", "struct",') == 1
    path.write_text(text.replace('"string", "struct",', '"string", "struct", "sys",'), "utf-8")
    with Sidecar(path, agent="upstream") as sidecar, pytest.MonkeyPatch.context() as environment:
        environment.setenv("WEIR_TOKEN_FILE", str(sidecar._folder / "token"))
        environment.delenv("WEIR_TOKEN", raising=False)
        substitutes.ADDRESS[:] = [sidecar.where]
        yield
        substitutes.ADDRESS.clear()
