"""Who is logged in to W&B is online, and nobody else ends with a traceback: real wandb, in a home of its own.

The cases share a process of their own, W&B torn down between them, since it reads its environment once. The server is
a port where nobody listens, or one of ours that takes the login and refuses the run.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import picture

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 2 + "01234567"
START = """
    def start(name):
        with start_wandb(lambda more: wandb.init(project="p", dir=make(name), **more), name) as run:
            run.log({"a": 1})
            return {"offline": run.offline, "disabled": run.disabled}
"""
PLACES = """
    def training(name):
        raw = {"output": make(name), "model": {"path": "m"}, "data": {"path": "d"}, "train": {"steps": 1}}
        config = RunConfig.model_validate({**raw, "tracking": {"wandb": True}})
        tracker = Tracker(config, Accelerator(cpu=True, log_with="wandb"))
        tracker.log({"train/loss": 1.0}, 1)
        tracker.close()

    def check(name):
        upload_check("p", Path(make(name)), CheckRun(kind="detect", scalars={"read": 1}))

    def audit(name):
        words = ["--data", f"{folder}/data", "--format", "folder", "--data-only"]
        assert CliRunner().invoke(app, ["audit", "score", *words, "--out", make(name)]).exit_code == 0
        result = CliRunner().invoke(app, ["audit", "report", make(name), "--wandb", "audits"])
        assert result.exit_code == 0, result.exception
        print(result.output, file=sys.stderr)
"""
SCRIPT = f"""
    import json, os, sys
    from pathlib import Path
    import wandb
    from accelerate import Accelerator
    from typer.testing import CliRunner
    from memsieve.trackers.checks import CheckRun, upload_check
    from memsieve.cli import app
    from memsieve.train.config import RunConfig
    from memsieve.train.tracking import Tracker
    from memsieve.train.wandb_start import start_wandb

    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])

    def make(name):
        (folder / name).mkdir(exist_ok=True)
        return str(folder / name)
{START}{PLACES}
    found = {{}}
    for name, (what, environment) in cases.items():
        for old in [old for old in os.environ if old.startswith("WANDB_")]:
            del os.environ[old]
        os.environ.update({{"WANDB_HTTP_TIMEOUT": "1", "WANDB_X_SERVICE_WAIT": "120", **environment}})
        try:
            found[name] = globals()[what](name)
        except ValueError as error:
            found[name] = str(error)
        wandb.teardown()
    (folder / "found.json").write_text(json.dumps(found))
"""


class Server(http.server.BaseHTTPRequestHandler):
    """Says who is logged in, and that the run may not be."""

    seen: list[tuple[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        viewer = b'"Viewer"' in body
        if self.path == "/graphql":
            type(self).seen.append(("login" if viewer else "run", self.headers.get("Authorization", "")))
        user = {"id": "1", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}
        answer = {"data": {"viewer": user}} if viewer else {"errors": [{"message": "permission denied"}]}
        data = json.dumps(answer).encode()
        self.send_response(200 if viewer else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""


@dataclass
class Outcome:
    """What the cases found, where they ran, what was said, and what our server saw."""

    folder: Path
    servers: dict[str, str]
    found: dict[str, Any]
    said: str
    seen: list[tuple[str, str]]

    def offline_runs(self, name: str) -> int:
        return len(list((self.folder / name).glob("wandb/offline-run-*/*.wandb")))


def run_cases(folder: Path, cases: dict[str, tuple[str, dict[str, str]]], logged_out: set[str]) -> Outcome:
    """Every case against a server of its own, for which the home's .netrc has a key, as `wandb login` leaves it."""
    handler = type("Handler", (Server,), {"seen": []})
    with ExitStack() as stack:
        ours = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=ours.serve_forever, daemon=True).start()
        servers = {}
        for name in cases:
            taken = stack.enter_context(socket.socket())  # its port is taken and not listened at
            taken.bind(("127.0.0.1", 0))
            port = ours.server_address[1] if name == "refused" else taken.getsockname()[1]
            servers[name] = f"http://127.0.0.1:{port}"
        known = [server.removeprefix("http://") for name, server in servers.items() if name not in logged_out]
        (folder / "home").mkdir()
        netrc = folder / "home" / ".netrc"
        netrc.write_text("".join(f"machine {machine}\n  login user\n  password {KEY}\n" for machine in known))
        netrc.chmod(0o600)
        asked = {name: (what, {"WANDB_BASE_URL": servers[name], **more}) for name, (what, more) in cases.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name != "NETRC"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), json.dumps(asked)],
            env=kept | {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}, cwd=folder, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        ours.shutdown()
    assert done.returncode == 0, done.stderr
    return Outcome(folder, servers, json.loads((folder / "found.json").read_text()), done.stderr, handler.seen)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("wandb")
    (folder / "data").mkdir()
    (folder / "data" / "a.png").write_bytes(picture(1))
    (folder / "data" / "a.txt").write_text("x")
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "training": ("training", {}),
        "check": ("check", {}),
        "audit": ("audit", {}),
        "refused": ("start", {"WANDB_HTTP_TIMEOUT": "60"}),  # our server answers, however busy the machine is
        "nobody": ("start", {}),
        "bad-key": ("start", {"WANDB_API_KEY": "too short"}),
        "offline": ("start", {"WANDB_MODE": "offline"}),
        "disabled": ("start", {"WANDB_MODE": "disabled"}),
    }
    return run_cases(folder, cases, {"nobody", "bad-key"})


@pytest.mark.parametrize(
    ("name", "option"), [("training", "tracking.report_to: [wandb]"), ("check", "--wandb"), ("audit", "--wandb")]
)
def test_a_login_from_netrc_without_network_is_offline_and_goes_on(outcome: Outcome, name: str, option: str) -> None:
    assert f"{option}: W&B is offline, since {outcome.servers[name]} cannot be reached" in outcome.said
    assert outcome.offline_runs(name) == 1


def test_a_login_from_netrc_is_used_and_a_refused_run_is_kept_offline(outcome: Outcome) -> None:
    key = f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}"
    assert ("login", key) in outcome.seen and ("run", key) in outcome.seen, "it was tried online first"
    assert outcome.found["refused"] == {"offline": True, "disabled": False}
    assert f"{outcome.servers['refused']} does not take the run (permission denied)" in outcome.said
    assert outcome.offline_runs("refused") == 1


@pytest.mark.parametrize(("name", "reason"), [("nobody", "nobody is logged in to {}"), ("bad-key", "{} cannot be")])
def test_without_a_login_that_can_be_used_the_run_is_offline(outcome: Outcome, name: str, reason: str) -> None:
    assert f"{name}: W&B is offline, since {reason.format(outcome.servers[name])}" in outcome.said
    assert outcome.found[name]["offline"] and outcome.offline_runs(name) == 1


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mode_decides_where_it_is_set(outcome: Outcome, mode: str) -> None:
    assert outcome.found[mode] == {"offline": mode == "offline", "disabled": mode == "disabled"}
    assert outcome.servers[mode] not in outcome.said, "nothing was asked of the server"


@pytest.mark.slow
def test_wandb_mode_online_without_network_ends_with_the_way_out(tmp_path: Path) -> None:
    asked = {"online": ("start", {"WANDB_MODE": "online", "WANDB_INIT_TIMEOUT": "1"})}
    found = run_cases(tmp_path, asked, set()).found["online"]
    assert found.startswith("online: W&B cannot be used as WANDB_MODE = 'online' asks (")
    assert "set WANDB_MODE=offline" in found
