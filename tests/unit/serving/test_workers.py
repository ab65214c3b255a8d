"""Several processes at the same sockets, killed and ended as platforms do."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from running_service import PATIENCE, QUESTION, Endpoint, Service, command, serving

MANY = ("--port", "0,0", "--workers", "2")


def workers_of(service: Service) -> list[int]:
    path = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def until(condition: object) -> None:
    for _ in range(600):
        if condition():  # type: ignore[operator]
            return
        threading.Event().wait(0.05)
    pytest.fail("it did not come true")


def test_they_share_the_sockets_and_end_together(home: Path) -> None:
    with serving(home, *MANY) as running:
        until(lambda: len(workers_of(running)) == 2)
        for url in running.urls:
            asked = running.client.post(f"{url}/v1/ask", json={"question": QUESTION})
            assert asked.json()["trace_id"]
        pids = workers_of(running)
        log = running.stop()

    assert running.process.returncode == 0
    assert log[-1]["event"] == "stopped"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_killed_one_is_replaced_while_the_other_answers(home: Path) -> None:
    with serving(home, *MANY, TWIN_TRACE="0") as running:
        until(lambda: len(workers_of(running)) == 2)
        before = workers_of(running)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(set(workers_of(running)) - set(before)) == 1)
        assert running.ask().status_code == 200
        log = running.stop()

    replaced = [entry for entry in log if entry.get("event") == "replaced"]
    assert [entry["exit"] for entry in replaced] == [-signal.SIGKILL]
    assert running.process.returncode == 0


def test_running_answers_are_finished_by_all(home: Path, endpoint: Endpoint) -> None:
    with serving(home, *MANY, **endpoint.settings) as running, ThreadPoolExecutor(8) as pool:
        body = {"question": QUESTION, "llm": "openai"}
        asked = [
            pool.submit(httpx.post, f"{running.urls[0]}/v1/ask", json=body, timeout=PATIENCE)
            for _ in range(6)
        ]
        assert endpoint.asked.wait(PATIENCE)
        until(lambda: in_flight(running) == 6 + 1)
        running.process.send_signal(signal.SIGTERM)
        endpoint.may_answer.set()
        assert [one.result(PATIENCE).status_code for one in asked] == [200] * 6
        running.log()

    assert running.process.returncode == 0


def in_flight(service: Service) -> float:
    text = service.get("/metrics").text
    return float(text.partition("\nllm_twin_http_requests_in_flight ")[2].split()[0])


def test_what_does_not_end_is_cut_off(home: Path, endpoint: Endpoint) -> None:
    flags = (*MANY, "--grace", "0.3")
    with serving(home, *flags, **endpoint.settings) as running, ThreadPoolExecutor() as pool:
        asked = pool.submit(running.ask, llm="openai")
        assert endpoint.asked.wait(PATIENCE)
        running.stop()
        assert isinstance(asked.exception(PATIENCE), httpx.TransportError)

    assert running.process.returncode == 1


def test_one_that_hangs_is_killed(home: Path) -> None:
    with serving(home, *MANY, "--grace", "0.1", TWIN_TRACE="0") as running:
        until(lambda: len(workers_of(running)) == 2)
        os.kill(workers_of(running)[0], signal.SIGSTOP)
        assert running.stop()[-1]["event"] == "stopped"

    assert running.process.returncode == 1


def test_ctrl_c_reaches_everyone_at_once_and_nothing_is_left(home: Path) -> None:
    with serving(home, *MANY, TWIN_TRACE="0") as running:
        until(lambda: len(workers_of(running)) == 2)
        for pid in [running.process.pid, *workers_of(running)]:
            os.kill(pid, signal.SIGINT)
        running.log()

    assert running.process.returncode == 0


def test_workers_end_when_their_parent_is_killed(home: Path) -> None:
    with serving(home, *MANY, TWIN_TRACE="0") as running:
        until(lambda: len(workers_of(running)) == 2)
        pids = workers_of(running)
        running.process.kill()
        until(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--workers", "2"), "error: there is no twin yet"),
        (("--workers", "0"), "error: there can be 1 to 64 workers: 0"),
    ],
)
def test_what_keeps_it_from_starting_is_said_once(
    tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    with command(tmp_path, "--port", "0", *flags) as process:
        out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert err.startswith(said)
    assert err.count("error:") == 1
    assert out == ""


def test_a_pattern_that_is_none_keeps_it_from_starting(home: Path) -> None:
    with command(home, "--port", "0", TWIN_TRACE_PATTERNS="(") as process:
        _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert err.startswith("error: ")


def test_it_answers_untraced_where_nothing_can_be_written(home: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(home / "models")
    (tmp_path / "traces" / "traces.db").mkdir(parents=True)
    with serving(tmp_path) as running:
        asked = running.ask()
        refused = running.client.post(
            f"{running.urls[0]}/v1/feedback",
            json={"trace_id": "01a208e6-b19a-79cb-ab4e-3d43200bf2f7", "score": 1},
        )
        log = running.stop()

    assert asked.status_code == 200
    assert "trace_id" not in asked.json()
    assert refused.status_code == 503
    assert [entry["error"] for entry in log if entry.get("event") == "untraced"] == ["SpaceError"]


def test_a_worker_that_dies_at_once_is_not_started_without_end(home: Path, tmp_path: Path) -> None:
    """The bundle is gone after the first one opened it."""
    models = tmp_path / "models"
    models.symlink_to(home / "models")
    with serving(tmp_path, *MANY, TWIN_TRACE="0") as running:
        models.unlink()
        until(lambda: len(workers_of(running)) == 2)
        for pid in workers_of(running):
            os.kill(pid, signal.SIGKILL)
        threading.Event().wait(2.5)
        running.process.send_signal(signal.SIGTERM)
        out, _ = running.process.communicate(timeout=PATIENCE)

    replaced = [json.loads(line) for line in out.splitlines() if '"replaced"' in line]
    assert 2 <= len(replaced) <= 12


def test_it_is_started_by_invoke_too(home: Path) -> None:
    code = (
        "from invoke import Collection, Program; from ci.serve import serve; "
        "Program(namespace=Collection(serve)).run()"
    )
    flags = ("serve", "--port", "0", "--workers", "2")
    with serving(home, *flags, code=code, TWIN_TRACE="0") as running:
        assert running.ask().status_code == 200
        running.stop()

    assert running.process.returncode == 0


def test_a_crash_at_the_start_is_told_without_its_words(home: Path) -> None:
    code = (
        "from llm_twin.serving import server\n"
        "def broken(*_, **__): raise RuntimeError('words of a stranger')\n"
        "server.create_app = broken\n"
        "from llm_twin.serving.__main__ import main; raise SystemExit(main())"
    )
    with command(home, "--port", "0", "--workers", "2", code=code) as process:
        out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    entry = json.loads(out)
    assert (entry["event"], entry["error"]) == ("crashed", "RuntimeError")
    assert entry["at"][-1].endswith(" broken")
    assert "stranger" not in out + err
