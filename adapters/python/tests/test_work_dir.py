"""A folder of the host beside a session's own: what goes there, what comes back, and what never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock
from fake_gate import FakeGate

import weir
from weir import Gate, GateError
from weir._errors import Refused
from weir._sidecar import derive
from weir._work_dir import FILE_BYTES, WorkDir, write
from weir.autogen import GateCodeExecutor, GateCodeExecutorConfig, GateCodeResult

PROFILE = Path(__file__).resolve().parents[3] / "policies" / "profiles" / "autogen.toml"


class Far:
    """A session's folder, for the folder's own tests."""

    def __init__(self, scratch: str | None = "/desk") -> None:
        self.id, self.scratch = "one", scratch
        self.files: dict[str, bytes] = {}

    def put_file(self, name: str, content: bytes) -> None:
        if name == "no":
            raise Refused(413, "too_large", "the file does not fit")
        self.files[name] = content

    def get_file(self, name: str) -> bytes:
        return self.files[name]


def sent(here: WorkDir, far: Any) -> list[str]:
    names = here.changed(far)
    assert here.send(far, names) == []
    return names


def left(*names: str, gone: bool = False) -> list[dict[str, Any]]:
    return [{"path": name, "bytes": 1, "digest": None if gone else "sha256:0"} for name in names]


def test_only_what_is_new_is_sent(tmp_path: Path) -> None:
    here, far = WorkDir(tmp_path / "w"), Far()
    assert sent(here, far) == [] and here.path.is_dir()
    (here.path / "a").mkdir()
    (here.path / "a" / "b.txt").write_text("1")
    (here.path / "x").write_text("2")
    assert sent(here, far) == ["a/b.txt", "x"] and far.files == {"a/b.txt": b"1", "x": b"2"}
    assert sent(here, far) == []
    (here.path / "x").write_text("22")
    assert sent(here, far) == ["x"]
    far.id = "another"
    assert sent(here, far) == ["a/b.txt", "x"], "a new session has none of them"


def test_what_a_program_left_comes_back_and_is_not_sent_again(tmp_path: Path) -> None:
    here, far = WorkDir(tmp_path), Far()
    (tmp_path / "mine").write_text("kept")
    sent(here, far)
    far.files |= {"out/plot.svg": b"<svg/>", "mine": b"changed"}
    assert here.fetch(far, left("out/plot.svg", "mine")) == []  # type: ignore[arg-type]
    assert (tmp_path / "out" / "plot.svg").read_text() == "<svg/>" and (tmp_path / "mine").read_text() == "changed"
    assert sent(here, far) == []
    (tmp_path / "other").write_text("never sent")
    assert here.fetch(far, left("mine", "other", "none/at/all", gone=True)) == []  # type: ignore[arg-type]
    assert not (tmp_path / "mine").exists() and (tmp_path / "other").exists(), "only what both had is removed"


def test_no_path_of_a_program_leads_out_of_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "w", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("untouched")
    (root / "link").symlink_to(outside, target_is_directory=True)
    (root / "file").symlink_to(outside / "secret")
    here, far = WorkDir(root), Far()
    bad = ["../outside/secret", "/etc/passwd", "a//b", "a/../../outside/secret", "", ".", "link/secret", "x\0y"]
    far.files = dict.fromkeys([*bad, "file"], b"evil")
    assert len(here.fetch(far, left(*bad))) == len(bad)  # type: ignore[arg-type]
    assert here.fetch(far, left("file")) == []  # type: ignore[arg-type]
    assert (outside / "secret").read_text() == "untouched" and not (root / "file").is_symlink()
    assert sorted(path.name for path in root.iterdir()) == ["file", "link"] and list(outside.iterdir()) == [outside / "secret"]
    assert sent(WorkDir(root), Far()) == ["file"], "what lies behind a link is not sent"
    with pytest.raises(OSError):
        write(root, "link/new", b"")


def test_a_file_that_does_not_go_is_told(tmp_path: Path) -> None:
    here, far = WorkDir(tmp_path), Far()
    (tmp_path / "no").write_text("1")
    with (tmp_path / "long").open("wb") as file:
        file.truncate(FILE_BYTES + 1)
    notes = here.send(far, here.changed(far))  # type: ignore[arg-type]
    assert [note.split(":")[0] for note in notes] == ["work_dir", "work_dir"]
    assert "over 16777216 bytes" in notes[0] and "does not fit" in notes[1]
    with pytest.raises(GateError, match=r"\[code.scratch\]"):
        here.changed(Far(scratch=None))  # type: ignore[arg-type]


async def run(executor: GateCodeExecutor, *codes: str, language: str = "python") -> GateCodeResult:
    return await executor.execute_code_blocks([CodeBlock(code, language) for code in codes], CancellationToken())


@pytest.mark.asyncio
async def test_without_a_folder_in_the_policy_it_is_refused_and_said(fake: FakeGate, gate: Gate, tmp_path: Path) -> None:
    executor = GateCodeExecutor(sidecar=gate, work_dir=tmp_path)
    result = await run(executor, "print(1)")
    assert result.exit_code == 69 and "[code.scratch]" in result.output and not fake.executions
    with pytest.raises(GateError, match="leave work_dir out"):
        await executor.start()
    await executor.stop()


def test_a_configuration_holds_the_folder() -> None:
    executor = GateCodeExecutor(policy="p.toml", work_dir="w")
    config = GateCodeExecutorConfig.model_validate(executor.dump_component().config)
    assert config.work_dir == "w" and GateCodeExecutor._from_config(config).work_dir == Path("w")


@pytest.fixture(scope="module")
def real(weir_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    path = derive(PROFILE, {}, [], [], tmp_path_factory.mktemp("policy"))
    text = path.read_text("utf-8")
    scratch = '[code.scratch]\nguest = "/desk"\nbytes = 65_536\nfiles = 20\n\n[code.limits]'
    assert text.count("[code.limits]") == 1
    path.write_text(text.replace("[code.limits]", scratch), "utf-8")
    with weir.Sidecar(path) as sidecar:
        yield sidecar


@pytest.mark.sidecar
@pytest.mark.asyncio
async def test_files_go_in_and_come_out_at_the_real_gate(real: Gate, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,1\nb,2\n")
    async with GateCodeExecutor(sidecar=real, work_dir=tmp_path) as executor:
        code = "text = open('/desk/in.csv').read()\nopen('/desk/out.txt', 'w').write(text.upper())\nprint(len(text))"
        result = await run(executor, code)
        assert (result.exit_code, result.output) == (0, "8\n") and len(result.receipts) == 1
        assert (tmp_path / "out.txt").read_text() == "A,1\nB,2\n"
        (tmp_path / "in.csv").write_text("more")
        assert (await run(executor, "print(open('/desk/in.csv').read())")).output == "more\n"
        full = await run(executor, "with open('/desk/big', 'wb') as file:\n    file.write(bytes(100_000))")
        assert full.exit_code == 1, "over the quota"
        (tmp_path / "large").write_bytes(bytes(70_000))
        told = await run(executor, "print('on')")
        assert told.exit_code == 0 and "large was not sent" in told.output and told.output.startswith("on\n")
