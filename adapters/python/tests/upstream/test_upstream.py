"""smolagents' ``CommonDockerExecutorIntegration`` against :class:`weir.GateExecutor`.

``WEIR_UPSTREAM=1 pytest tests/upstream`` downloads the source archive (pinned by hash) and runs its
cases against the real sidecar. ``WEIR_UPSTREAM=fake`` uses the stand-in gate, which shows that the
adapter fits and nothing else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

import weir
from weir._sidecar import derive

if os.environ.get("WEIR_UPSTREAM") not in ("1", "fake"):
    pytest.skip("set WEIR_UPSTREAM=1 to download and run upstream's cases", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
from source import load  # noqa: E402

UPSTREAM = load().CommonDockerExecutorIntegration
PROFILE = Path(__file__).resolve().parents[4] / "policies" / "profiles" / "smolagents.toml"

WAIVED = {
    "test_state_persistence": "imports numpy; the guest is CPython on WebAssembly, where numpy's extension does not load. "
    "test_state_persists_without_numpy below is the same case with math.",
    "test_execute_image_output": "makes a PIL image inside the guest, which has no PIL. "
    "test_an_image_of_a_host_tool below has the image made by a tool and handed on.",
}
"""Upstream's cases that are expected to fail, each with its reason; a pass is an error here."""


@pytest.fixture(scope="session")
def policy(weir_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of the profile, with a ``final_answer`` of any arguments: one case has two."""
    folder = tmp_path_factory.mktemp("policy")
    path = derive(PROFILE, {"draw": "read"}, [], [], folder)
    text = path.read_text("utf-8")
    strict = '[tool.args.answer]\ntype = "any"\nrequired = true\n'
    assert text.count(strict) == 1
    path.write_text(text.replace(strict, "extra_args = true\n"), "utf-8")
    return path


@pytest.fixture
def custom_executor(request: pytest.FixtureRequest) -> Iterator[weir.GateExecutor]:
    if os.environ["WEIR_UPSTREAM"] == "fake":
        executor = weir.GateExecutor(sidecar=request.getfixturevalue("gate"))
    else:
        executor = weir.GateExecutor(policy=request.getfixturevalue("policy"))
    with executor:
        yield executor


class TestGateExecutor(UPSTREAM):
    @pytest.fixture(autouse=True)
    def waive(self, request: pytest.FixtureRequest) -> None:
        reason = WAIVED.get(request.node.originalname)
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def test_state_persists_without_numpy(self) -> None:
        self.executor("import math; a = 2")
        assert "1.41421" in self.executor("print(math.sqrt(a))").logs

    def test_an_image_of_a_host_tool(self) -> None:
        import PIL.Image
        from smolagents import FinalAnswerTool

        def draw(width: int, height: int) -> Any:
            return PIL.Image.new("RGB", (width, height), (255, 0, 0))

        self.executor.send_tools({"final_answer": FinalAnswerTool(), "draw": draw})
        output = self.executor("image = draw(10, 20)\nfinal_answer(image)").output
        assert isinstance(output, PIL.Image.Image) and output.size == (10, 20)
