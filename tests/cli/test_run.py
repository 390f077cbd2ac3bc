"""`agenttune run` with a fake trainer: endings, interrupts, and the death of each process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from agenttune.config import ServerSettings
from agenttune.control.discovery import find_server
from agenttune.errors import StoreFault
from agenttune.launch import supervisor
from agenttune.launch.child_processes import ServerProcess, spawn
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import RunLog, list_runs
from tests.cli.conftest import Project, agenttune, wait_for

FOREVER = "[]"


def gone(pid: int) -> bool:
    return not is_alive(pid, None)


def test_a_run_ends_with_a_summary_and_leaves_no_process(project: Project) -> None:
    project.write(args="[--steps, 60]", more="gate: {max_change_factor: 3}\nbudgets: {max_commands: 7}\n")
    launched = project.start()
    agent = launched.child("attach")  # started before the script is
    result = launched.end()
    info = launched.info()
    assert result.code == 0, result.err
    assert info.status == "finished"
    assert "step 20 evaluated: eval_loss" in result.out
    assert "result    eval_loss " in result.out
    assert f"agenttune report {info.run_id}" in result.out
    assert info.path in result.out
    assert gone(agent.pid)
    assert find_server(project.runs_dir) is None
    assert "\x1b" not in result.out
    assert info.rules["gate"]["max_change_factor"] == 3
    assert info.rules["budgets"]["max_commands"] == 7
    assert Path(info.path, "config.yaml").read_bytes() == (project.folder / "config.yaml").read_bytes()


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        ("[--ending, raise, --steps, 5]", "failed", "RuntimeError: the data [31mran out"),
        ("[--ending, after, --steps, 5]", "finished", "training finished, but then the script ended with exit code 1"),
    ],
)
def test_a_script_that_ends_badly_is_told_apart(project: Project, args: str, status: str, said: str) -> None:
    project.write(args=args)
    result = project.run()
    info = list_runs(project.runs_dir)[0]
    assert result.code == 1
    assert said in result.err
    # A reader of the log may have seen first that the process is gone, and have called the run lost.
    assert info.status in (status, "lost")
    assert "trainer.log" in result.err
    assert f"agenttune report {info.run_id}" in result.out
    assert "\x1b" not in result.err
    if info.status_reason not in result.err:
        assert "the script" in agenttune("report", cwd=project.folder).out


def test_a_script_that_crashes_at_import_shows_its_traceback(project: Project) -> None:
    project.write("broken.py", "[]")
    (project.folder / "broken.py").write_text("import no_such_module_here\n", encoding="utf-8")
    result = project.run()
    assert result.code == 1
    assert "ModuleNotFoundError: No module named 'no_such_module_here'" in result.err
    assert 'File "' in result.err
    assert "before any training began" in result.err
    assert list_runs(project.runs_dir)[0].status in ("failed", "lost")


def test_a_script_that_never_trains_is_told_what_to_do(project: Project) -> None:
    project.write("idle.py", "[]")
    (project.folder / "idle.py").write_text("print('hello')\n", encoding="utf-8")
    result = project.run()
    assert result.code == 1
    assert "make_interactive(Trainer)" in result.err
    assert "hello" in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_stops_the_trainer_and_keeps_a_checkpoint(
    project: Project, number: signal.Signals, code: int
) -> None:
    project.write(args=FOREVER)
    launched = project.start()
    launched.wait_for_step(5)
    trainer, agent = launched.child("fake_trainer"), launched.child("attach")
    launched.send(number)
    result = launched.end()
    info = launched.info()
    assert result.code == code, result.err
    assert info.status == "stopped"
    assert launched.events("checkpoint_saved")
    assert "Ctrl-C again kills it" in result.out
    assert "stopped: stop_training by agenttune run" in result.out
    assert gone(trainer.pid)
    assert gone(agent.pid)
    assert find_server(project.runs_dir) is None


def test_second_interrupt_kills_a_trainer_that_does_not_listen(project: Project) -> None:
    project.write(args="[--deaf]")
    launched = project.start()
    launched.wait_for_step(2)
    trainer = launched.child("fake_trainer")
    launched.send(signal.SIGINT)
    launched.wait_for_event("proposed")
    launched.send(signal.SIGINT)
    result = launched.end()
    assert result.code == 130
    assert gone(trainer.pid)
    assert launched.info().status in ("interrupted", "lost")
    assert "killed at the second interrupt" in result.out
    assert "the kernel does this" not in result.out + result.err


def test_interrupt_before_training_began_ends_at_once(project: Project) -> None:
    project.write(args="[--idle]")
    launched = project.start()
    trainer = launched.child("fake_trainer")
    wait_for("the run's process", lambda: launched.info().pid)
    launched.send(signal.SIGINT)
    result = launched.end()
    assert result.code == 130
    assert gone(trainer.pid)
    assert launched.info().status in ("interrupted", "lost")
    assert "interrupted before training began" in result.out


def test_refused_stop_ends_the_process_all_the_same(project: Project) -> None:
    project.write(args=FOREVER, more="gate: {forbid: [stop_training]}\n")
    launched = project.start()
    launched.wait_for_step(2)
    launched.send(signal.SIGINT)
    result = launched.end()
    assert result.code == 130
    assert "stop_training was refused" in result.out


def test_ctrl_c_ends_training_also_where_the_log_takes_nothing(project: Project) -> None:
    """With a full disk nobody can be asked; a script that went on by itself is not what Ctrl-C is for."""
    project.write(args=FOREVER)
    launched = project.start()
    launched.wait_for_step(2)
    trainer = launched.child("fake_trainer")
    resource.prlimit(launched.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    launched.send(signal.SIGINT)
    result = launched.end()
    assert gone(trainer.pid)
    assert result.code == 130
    assert "SIGTERM sent to the training process: it cannot be asked to stop" in result.out


def test_a_server_that_nobody_needs_any_more_is_not_called_dead(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "runs", ServerSettings(port=0))
    psutil.Process(server.address.pid).kill()
    wait_for("its end", lambda: not is_alive(server.address.pid, None))
    assert server.restart_if_dead(lambda: False) == "", "the run beside ours ended it: ours is over as well"
    assert "was started again" in server.restart_if_dead(lambda: True)
    server.stop()


def test_killed_agent_and_killed_server_are_started_again(project: Project) -> None:
    project.write(args=FOREVER)
    launched = project.start()
    launched.wait_for_event("policy_attached")
    killed = launched.child("attach")
    killed.kill()
    wait_for("a second agent", lambda: len(launched.events("policy_attached")) >= 2)
    assert launched.child("attach").pid != killed.pid
    before = find_server(project.runs_dir)
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)
    wait_for("a new server", lambda: (s := find_server(project.runs_dir)) is not None and s.pid != before.pid)
    after = find_server(project.runs_dir)
    assert after is not None
    assert after.url == before.url
    launched.send(signal.SIGINT)
    result = launched.end()
    assert result.code == 130
    assert "the agent ended (exit status -9) and was started again" in result.out
    assert "the control server died and was started again" in result.out
    assert launched.info().status == "stopped"
    assert find_server(project.runs_dir) is None


def test_training_outlives_a_killed_launcher(project: Project) -> None:
    project.write(args=FOREVER)
    launched = project.start()
    launched.wait_for_event("policy_attached")
    trainer, agent = launched.child("fake_trainer"), launched.child("attach")
    launched.process.kill()
    launched.process.communicate()
    launched.wait_for_step(launched.info().step + 20)
    launched.stop_training()
    wait_for("the end of the run", lambda: launched.info().status == "stopped")
    wait_for("the end of the agent", lambda: gone(agent.pid))
    wait_for("the end of the script", lambda: gone(trainer.pid))
    assert launched.events("policy_detached")
    server = find_server(project.runs_dir)
    assert server is not None, "the server lingers for a while"
    psutil.Process(server.pid).terminate()


def test_killed_trainer_is_reported_and_not_started_again(project: Project) -> None:
    project.write(args=FOREVER)
    launched = project.start()
    launched.wait_for_step(2)
    launched.child("fake_trainer").kill()
    result = launched.end()
    assert result.code == 1
    assert "was killed by SIGKILL (the kernel does this when memory runs out)" in result.err
    assert launched.info().status == "lost"
    assert len(launched.events("run_started")) == 1


def test_port_in_use_is_named_before_training_starts(project: Project) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        text = (project.folder / "config.yaml").read_text(encoding="utf-8").replace("port: 0", f"port: {port}")
        (project.folder / "config.yaml").write_text(text, encoding="utf-8")
        result = project.run()
    info = list_runs(project.runs_dir)[0]
    assert result.code == 2
    assert str(port) in result.err
    assert "server.port" in result.err or "--port" in result.err
    assert "Traceback" not in result.err
    assert info.status == "failed"
    assert str(port) in info.status_reason


def test_a_module_runs_like_a_script_and_two_runs_of_one_second_get_two_folders(project: Project) -> None:
    config = project.folder / "config.yaml"
    _, *rest = config.read_text(encoding="utf-8").splitlines()
    module = "run: {module: tests.cli.fake_trainer, args: [--steps, 3]}"
    config.write_text("\n".join([module, *rest]), encoding="utf-8")
    one, other = project.start(), project.start()
    assert {one.end().code, other.end().code} == {0}
    found = list_runs(project.runs_dir)
    assert len(found) == 2
    assert all(info.run_id.startswith("run-") for info in found)


def test_unwritable_runs_folder_is_one_line(project: Project) -> None:
    project.runs_dir.write_text("a file is in the way", encoding="utf-8")
    result = project.run()
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert str(project.runs_dir) in result.err
    assert len(result.err.splitlines()) == 1


def test_a_script_that_nobody_could_look_after_is_ended(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when its process is to be noted: the run is called failed, so nothing may train on."""
    project.write(args=FOREVER)
    started = list[subprocess.Popen[bytes]]()
    update_info = RunLog.update_info

    def seen(*given: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(spawn(*given, **named))
        return started[-1]

    def full(log: RunLog, **fields: object) -> None:
        if fields.get("pid") is not None:
            raise StoreFault("database or disk is full")
        update_info(log, **fields)

    monkeypatch.setattr(supervisor, "spawn", seen)
    monkeypatch.setattr(RunLog, "update_info", full)
    result = agenttune("run", "config.yaml", cwd=project.folder)
    assert result.code == 1
    assert "database or disk is full" in result.err
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert list_runs(project.runs_dir)[0].status == "failed"


def test_ranks_of_the_attempt_before_are_not_blamed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is started again goes on in its folder, where the file about its ranks still lies."""
    project.write("broken.py", "[]")
    (project.folder / "broken.py").write_text("raise SystemExit(3)", encoding="utf-8")
    create_run = supervisor.create_run

    def go_on(plan: Any) -> Any:
        run = create_run(plan)
        left = [{"rank": 5, "pid": 1, "exit_status": -9, "message": "", "at_s": 1.0}]
        (run.folder / supervisor.RANK_FAILURES).write_text(json.dumps(left), encoding="utf-8")
        return run

    monkeypatch.setattr(supervisor, "create_run", go_on)
    result = agenttune("run", "config.yaml", cwd=project.folder)
    assert "rank 5" not in result.err
    assert "the script ended with exit code 3" in result.err
