"""The real Hub client and the `hf` command through the real gate, in front of a Hub of the tests' own.

Skipped, with the reason, where there is no program with `serve --upstreams`. The client runs in a process of its own, as
an agent's would: `HF_ENDPOINT` is read when it is imported, and the token that it holds is the gate's.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from fake_hub import COMMIT, FakeHub, sha256

pytestmark = pytest.mark.sidecar

TOKEN = "agent-token-0123456789"
REAL = "hf_real_000111222333"
JOB = "hf_jobs_444555666777"
WEIGHTS = bytes(range(256)) * 4096

POLICY = f"""
[policy]
id = "hub"

[[registry]]
name = "hub"
writable = ["model:team/out"]
[[registry.pin]]
name = "model:team/base"
revision = "{COMMIT}"

[jobs]
namespaces = ["team"]
images = ["python:3.12", "ghcr.io/astral-sh/uv:python3.12-bookworm"]
secrets = ["HF_TOKEN"]
max_timeout = "4h"
default_timeout = "30m"
[[jobs.flavor]]
name = "t4-small"
micro_usd_per_hour = 400_000
gpus = 1
source = "the provider's page on prices of jobs"
as_of = "2026-11-21"

[[budget]]
id = "money"
scope = "agent"
kind = "micro_usd"
limit = 250_000

[[rule]]
id = "all"
effect = "allow"
actions = ["package.fetch", "package.publish", "job.launch"]
"""


class World:
    """A gate in front of a Hub, and an agent's process behind it."""

    def __init__(self, hub: FakeHub, home: Path, program: str) -> None:
        self.hub, self.home = hub, home
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for name, text in {"key": REAL, "job": JOB, "agent": TOKEN, "policy.toml": POLICY}.items():
            (home / name).write_text(text)
            (home / name).chmod(0o600)
        (home / "upstreams.toml").write_text(
            f'[[upstream]]\nname = "hub"\nkind = "hub"\nurl = "{hub.url}"\nlisten = "127.0.0.1:{self.port}"\n'
            f'key_file = "key"\njob_token_file = "job"\nblob_hosts = ["localhost:{hub.port}"]\nlook_every_ms = 50\n'
        )
        command = [program, "serve", "--policy", "policy.toml", "--upstreams", "upstreams.toml", "--store", "store"]
        command += ["--token-file", "agent", "--socket", "gate.sock"]
        self.gate = subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True)
        until("the gate listens", self.listens)

    def listens(self) -> bool:
        assert self.gate.poll() is None, self.gate.stderr and self.gate.stderr.read()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def python(self, text: str, **more: str) -> Any:
        """Runs a program with the client; what it gives as `out` comes back, or the error that it ended with."""
        begin = "import json, huggingface_hub as hub\nfrom huggingface_hub import *\napi = HfApi()\nout = None\n"
        guarded = textwrap.indent(textwrap.dedent(text), "    ")
        end = "\nexcept Exception as e:\n    out = {'error': type(e).__name__, 'text': str(e)}\nprint(json.dumps(out, default=str))"
        code = f"{begin}try:\n{guarded}{end}"
        environment = {**self.environment(), **more}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=90, cwd=self.home, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def hf(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("hf"))
        return subprocess.run([program, *words], env=self.environment(), capture_output=True, text=True, timeout=90, cwd=self.home, check=False)

    def close(self) -> None:
        self.gate.kill()
        self.gate.wait()
        if self.gate.stderr:
            self.gate.stderr.close()


def until(what: str, holds: Any) -> None:
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < 30, f"{what} did not come"
        time.sleep(0.02)


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """A program that serves upstreams: WEIR_HUB_GATE, or the sidecar where it can."""
    if given := os.environ.get("WEIR_HUB_GATE"):
        return given
    path: str = request.getfixturevalue("weir_binary")
    helped = subprocess.run([path, "serve", "--help"], capture_output=True, text=True, timeout=30, check=False)
    if "--upstreams" not in helped.stdout:
        pytest.skip(f"{path} serves no upstreams yet")
    return path


@pytest.fixture
def world(program: str, tmp_path: Path) -> Iterator[World]:
    with FakeHub() as hub:
        hub.files = {
            "config.json": (b'{"a": 1}', False),
            "model.safetensors": (WEIGHTS, True),
            "pytorch_model.bin": (b"\x80\x04pickle", True),
        }
        made = World(hub, tmp_path, program)
        yield made
        made.close()
        assert all(token in (REAL, None) for _, _, token, _ in hub.asked), "the agent's token reached the Hub"
        assert not any(TOKEN.encode() in body for *_, body in hub.asked), "the agent's token reached the Hub in a body"


def test_a_pinned_repository_is_downloaded_and_others_are_not(world: World) -> None:
    got = world.python(f"""
        path = hf_hub_download('team/base', 'model.safetensors', revision='{COMMIT}')
        out = [len(open(path, 'rb').read()), path.split('/')[-2], hf_hub_download('team/base', 'config.json')]
    """)
    assert got[:2] == [len(WEIGHTS), COMMIT], got
    assert Path(got[2]).read_bytes() == b'{"a": 1}'
    snapshot = world.python(f"""
        import os
        path = snapshot_download('team/base', revision='{COMMIT}', allow_patterns=['*.safetensors', '*.json'])
        out = sorted(os.listdir(path))
    """)
    assert snapshot == ["config.json", "model.safetensors"]
    other = world.python("hf_hub_download('team/other', 'config.json')")
    assert other["error"] == "GatedRepoError" and "not pinned" in other["text"], other
    unsafe = world.python(f"hf_hub_download('team/base', 'pytorch_model.bin', revision='{COMMIT}')")
    assert unsafe["error"] == "GatedRepoError" and "runs as code" in unsafe["text"], unsafe
    world.hub.corrupt.add("model.safetensors")
    broken = world.python(f"hf_hub_download('team/base', 'model.safetensors', revision='{COMMIT}', force_download=True)")
    assert "error" in broken, broken
    searched = world.python("out = list(api.list_models(search='x'))")
    assert "403" in searched["text"] and "searching" in searched["text"], searched


def test_an_upload_goes_to_the_granted_repository_only(world: World) -> None:
    (world.home / "w.bin").write_bytes(WEIGHTS)
    done = world.python("""
        api.create_repo('team/out', exist_ok=True)
        add = [CommitOperationAdd('README.md', b'# hello'), CommitOperationAdd('w.bin', 'w.bin')]
        out = api.create_commit('team/out', add, commit_message='m').oid
    """)
    assert done == COMMIT
    assert world.hub.sent == {sha256(WEIGHTS): WEIGHTS}
    keys = [line["key"] for line in world.hub.commits[0]]
    assert sorted(keys) == ["file", "header", "lfsFile"]
    assert world.hub.count("POST", "/api/validate-yaml") == 0
    for text in [
        "api.upload_file(path_or_fileobj=b'x', path_in_repo='a', repo_id='team/base')",
        "api.create_repo('team/out', private=False)",
        "api.delete_repo('team/out')",
        "api.update_repo_settings('team/out', private=False)",
        "api.delete_file('README.md', 'team/out')",
        "api.request_space_hardware('team/app', 'a100-large')",
        "api.create_branch('team/out', branch='x')",
    ]:
        refused = world.python(text)
        assert "error" in refused and "[weir] denied" in refused["text"], (text, refused)
    assert len(world.hub.commits) == 1


def test_a_job_is_launched_watched_cancelled_and_settled(world: World) -> None:
    launched = world.python("""
        job = run_job(image='python:3.12', command=['python', 'train.py'], flavor='t4-small', timeout='10m', secrets={'HF_TOKEN': 'mine'})
        out = [job.id, job.status.stage, [j.id for j in list_jobs()], list(fetch_job_logs(job_id=job.id))]
    """)
    assert launched == ["job0", "SCHEDULING", ["job0"], ["step 1"]], launched
    sent = world.hub.jobs["job0"]
    assert sent["timeoutSeconds"] == 600 and sent["secrets"] == {"HF_TOKEN": JOB} and len(sent["labels"]["weir-call"]) == 32
    world.hub.run(30)
    # Two of twelve minutes are held; a third would pass the limit.
    again = "run_job(image='python:3.12', command=['python', 't'], flavor='t4-small', timeout=600)"
    assert world.python(f"out = {again}.id") == "job1"
    assert world.python(f"out = {again}.id") == "job2"
    full = world.python(again)
    assert "402" in full["text"] and "[weir] denied" in full["text"], full
    world.hub.end("COMPLETED")
    until("the holds are free", lambda: "error" not in (world.python(f"out = {again}.id") or {"error": ""}))
    world.hub.run(600)
    until("the gate cancels at the time's end", lambda: world.hub.count("POST", "/api/jobs/team/job3/cancel") == 1)
    assert world.hub.count("POST", "/api/jobs/team/job0/cancel") == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run_job(image='python:3.12', command=['x'], flavor='a100x8', timeout=600)", "a100x8"),
        ("run_job(image='python:3.12', command=['x'], flavor='t4-small', timeout='90000.0s')", "14400"),
        ("run_job(image='python:3.12', command=['x'], flavor='t4-small', timeout='6d')", "14400"),
        ("run_job(image='hf.co/spaces/team/app', command=['x'], flavor='t4-small', timeout=600)", "Space"),
        ("run_job(image='python:3.12', command=['x'], flavor='t4-small', timeout=600, expose=[80])", "ports"),
        ("run_job(image='python:3.12', command=['x'], flavor='t4-small', timeout=600, ssh=True)", "ssh"),
        ("run_job(image='python:3.12', command=['x'], flavor='t4-small', namespace='other')", "namespaces team"),
        ("run_job(image='python:3.12', command=['x'], flavor='t4-small', env={'HF_TOKEN': 'x'})", "secrets"),
        ("create_scheduled_job(image='python:3.12', command=['x'], schedule='@hourly')", "again and again"),
    ],
)
def test_a_launch_beyond_the_policy_is_refused_in_words(world: World, text: str, says: str) -> None:
    refused = world.python(text)
    assert "403" in refused["text"] and says in refused["text"], refused
    assert world.hub.jobs == {}


def test_the_command_line_works_and_is_told_why_not(world: World) -> None:
    got = world.hf("download", "team/base", "config.json", "--revision", COMMIT)
    assert got.returncode == 0, got.stderr
    other = world.hf("download", "team/other", "config.json")
    assert other.returncode != 0 and "not pinned" in other.stdout + other.stderr, other
    run = world.hf("jobs", "run", "--detach", "--flavor", "t4-small", "--timeout", "10m", "python:3.12", "python", "train.py")
    assert run.returncode == 0 and "job0" in run.stdout + run.stderr, run
    dear = world.hf("jobs", "run", "--detach", "--flavor", "t4-small", "--timeout", "6d", "python:3.12", "python", "train.py")
    assert dear.returncode != 0 and "14400" in dear.stdout + dear.stderr, dear
    stopped = world.hf("jobs", "cancel", "job0")
    assert stopped.returncode == 0, stopped.stderr
    assert world.hub.jobs["job0"]["status"]["stage"] == "CANCELED"
    inline = world.hf("jobs", "uv", "run", "--detach", "--flavor", "t4-small", "--timeout", "10m", "https://x.example/a.py")
    assert inline.returncode == 0 and len(world.hub.jobs) == 2, inline


def test_with_xet_left_on_downloads_still_pass_the_gate(world: World) -> None:
    got = world.python(
        f"out = len(open(hf_hub_download('team/base', 'model.safetensors', revision='{COMMIT}'), 'rb').read())",
        HF_HUB_DISABLE_XET="0",
    )
    assert got == len(WEIGHTS)
    snapshot = world.python(
        f"out = snapshot_download('team/base', revision='{COMMIT}', allow_patterns='*.safetensors')",
        HF_HUB_DISABLE_XET="0",
        HF_HOME=str(world.home / "other"),
    )
    assert (Path(snapshot) / "model.safetensors").read_bytes() == WEIGHTS
