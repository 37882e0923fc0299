"""The runnable example, end to end, with the stand-in gate as its sidecar; and with the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
EXAMPLE = ROOT / "examples" / "smolagents" / "quickstart.py"


def run(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **env},
        check=False,
    )


def expect(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line in (
        "step 1    2 notes: gate, tides",
        "[weir] denied import socket",
        "refused: [weir] denied tool run_command",
        "answer    inspect the weir before high tide",
        "deny      tool.call       run_command",
        "allow     tool.call       read_note",
    ):
        assert line in ran.stdout, line


def test_the_quickstart_with_the_stand_in(tmp_path: Path) -> None:
    program = tmp_path / "weir"
    program.write_text(
        f"#!/bin/sh\n[ $1 = policy ] && exec echo '# derived'\n"
        f'WEIR_FAKE_DENIED=run_command exec {sys.executable} {HERE / "fake_sidecar.py"} {tmp_path / "log"} "$@"\n'
    )
    program.chmod(0o755)
    expect(run({"WEIR_BIN": str(program)}))
    assert (tmp_path / "log").read_text().endswith("SIGTERM\n"), "the sidecar was stopped"


@pytest.mark.sidecar
def test_the_quickstart_with_the_sidecar(weir_binary: str) -> None:
    ran = run({"WEIR_BIN": weir_binary})
    expect(ran)
    assert "autonomy" in ran.stdout.lower(), "the score table has its factors"


@pytest.mark.sidecar
def test_the_autogen_team_with_the_sidecar(weir_binary: str) -> None:
    team = ROOT / "examples" / "autogen" / "team.py"
    environment = {**os.environ, "WEIR_BIN": weir_binary}
    ran = subprocess.run(
        [sys.executable, str(team)], capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line in ("mean 170", "[weir] denied import socket", "[weir] denied tool refund", "allow     tool.call"):
        assert line in ran.stdout, line
