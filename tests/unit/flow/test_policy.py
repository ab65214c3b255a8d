"""Retry policies: when another attempt is made, how long it waits, and what is kept of each."""

import os
import signal

import pytest
import tenacity

from llm_twin.errors import BusyError, ConfigError, FlowError, RemoteError, UserError
from llm_twin.flow.policy import Backoff, Crashed, Jitter, Retry, TimedOut, backoff, jitter
from llm_twin.flow.store import Store


def test_waits_compose_and_add_up():
    policy = Retry(5) + Backoff(initial=2, factor=3, limit=10) + Backoff(initial=1, factor=1)
    assert [policy.delay(number) for number in (1, 2, 3)] == [3, 7, 11]
    assert Retry(5).delay(1) == 0
    assert [(Retry(9) + backoff).delay(number) for number in (1, 2, 7, 900)] == [1, 2, 60, 60]


def test_jitter_spreads_within_its_bound():
    found = {(Retry(2) + jitter).delay(1) for _ in range(50)}
    assert len(found) > 1
    assert all(0 <= wait <= 1 for wait in found)
    assert all(0 <= (Retry(2) + Jitter(0.1)).delay(1) <= 0.1 for _ in range(50))


def test_the_wait_objects_of_tenacity_compose_too():
    fixed = tenacity.wait_fixed(2) + tenacity.wait_incrementing(start=1, increment=10)
    policy = Retry(3) + fixed + backoff
    assert [policy.delay(number) for number in (1, 2)] == [4, 15]
    growing = Retry(3) + tenacity.wait_exponential(multiplier=1, max=3)
    assert [growing.delay(number) for number in (1, 2, 3)] == [1, 2, 3]
    chain = Retry(3) + tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5))
    assert [chain.delay(number) for number in (1, 2, 3)] == [1, 5, 5]
    assert 0 <= (Retry(3) + tenacity.wait_random_exponential(max=2)).delay(4) <= 2


@pytest.mark.parametrize(
    ("on", "error", "again"),
    [
        ((Exception,), ValueError(), True),
        ((Exception,), RemoteError("away"), True),
        ((Exception,), SystemExit(1), True),
        ((Exception,), TimedOut(), True),
        ((Exception,), Crashed(), True),
        ((Exception,), ConfigError("bad"), False),
        ((Exception,), KeyboardInterrupt(), False),
        ((ConnectionError,), ConnectionResetError(), True),
        ((ConnectionError,), ValueError(), False),
        ((ConnectionError,), SystemExit(1), False),
        ((ConnectionError, TimedOut), TimedOut(), True),
        ((TimedOut,), Crashed(), False),
        ((BusyError,), BusyError("busy"), True),
        ((BusyError,), ConfigError("bad"), False),
        ((UserError,), ConfigError("bad"), True),
    ],
)
def test_which_errors_are_worth_another_attempt(on, error, again):
    assert Retry(3, on=on).wants(error) is again


def test_no_attempt_at_all_is_refused():
    with pytest.raises(FlowError, match=r"at least one attempt: Retry\(0\)"):
        Retry(0)


def fails_until(tmp_path, times, fail):
    """A stage function that fails so often, counting its calls in a file."""

    def work() -> str:
        calls = tmp_path / "calls"
        with calls.open("a") as file:
            file.write("x")
        if len(calls.read_text()) <= times:
            fail()
        return calls.read_text()

    return work


def raises(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "state"),
    [
        (raises(ConnectionError("reset")), "Failed"),
        (lambda: os._exit(3), "Crashed"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "Crashed"),
        (lambda: exit(9), "Failed"),
    ],
)
def test_a_stage_is_tried_again_and_every_attempt_is_kept(
    registry, runner, told, tmp_path, home, fail, state
):
    registry.stage(name="flaky", retry=Retry(3))(fails_until(tmp_path, 2, fail))
    result = runner.run("flaky")
    assert (str(result.state), result.exit_code) == ("Completed", 0)
    assert result.stages[0].result == "xxx"
    assert result.stages[0].attempts == 3
    attempts = Store(home).attempts(result.id)
    assert [(item.number, str(item.state)) for item in attempts] == [
        (1, state), (2, state), (3, "Completed"),
    ]  # fmt: skip
    assert all(item.ended for item in attempts)
    waits = [str(then) for _, then in told.of("stage_waiting")]
    assert waits == ["Scheduled(AwaitingRetry)"] * 2
    assert [number for _, _, number in told.of("stage_started")] == [1, 2, 3]


def test_the_last_attempt_is_the_stage_s_outcome(registry, runner, tmp_path, home, told):
    fail = raises(RemoteError("the server is away", "http://x"))
    registry.stage(name="flaky", retry=Retry(2))(fails_until(tmp_path, 9, fail))
    result = runner.run("flaky")
    assert (str(result.state), result.exit_code) == ("Failed", 1)
    assert result.state.message == "flaky: the server is away: http://x"
    assert len(Store(home).attempts(result.id)) == 2
    ((_, then),) = told.of("stage_waiting")
    expected = "attempt 1 of 2: the server is away: http://x; the next in 0.0 s"
    assert then.message == expected


@pytest.mark.parametrize(
    ("on", "fail", "calls"),
    [
        ((Exception,), raises(ConfigError("bad")), "x"),
        ((ConfigError,), raises(ConfigError("bad")), "xxx"),
        ((ConnectionError,), raises(ValueError("no")), "x"),
        ((TimedOut,), lambda: os.kill(os.getpid(), signal.SIGKILL), "x"),
        ((Crashed,), lambda: os.kill(os.getpid(), signal.SIGXCPU), "xxx"),
        ((Exception,), raises(KeyboardInterrupt()), "x"),
    ],
)
def test_only_the_named_errors_are_tried_again(registry, runner, tmp_path, on, fail, calls):
    registry.stage(name="flaky", retry=Retry(3, on=on))(fails_until(tmp_path, 9, fail))
    assert not runner.run("flaky").state.good
    assert (tmp_path / "calls").read_text() == calls


def test_an_attempt_that_takes_too_long_is_ended_and_tried_again(registry, runner, tmp_path, home):
    slow = fails_until(tmp_path, 1, lambda: signal.pause())
    registry.stage(name="slow", timeout=4.0, retry=Retry(2, on=(TimedOut,)))(slow)
    result = runner.run("slow")
    assert str(result.state) == "Completed"
    first, second = Store(home).attempts(result.id)
    assert (str(first.state), str(second.state)) == ("Failed(TimedOut)", "Completed")
    assert first.state.message == "it took longer than 4 s"


def test_a_time_out_is_not_tried_again_when_other_errors_are_named(registry, runner, tmp_path):
    slow = fails_until(tmp_path, 9, lambda: signal.pause())
    registry.stage(name="slow", timeout=2, retry=Retry(3, on=(ConnectionError,)))(slow)
    result = runner.run("slow")
    assert (str(result.state), result.exit_code) == ("Failed(TimedOut)", 1)
    assert (tmp_path / "calls").read_text() == "x"


def test_a_resumed_stage_has_all_its_attempts_again(registry, runner, tmp_path, home):
    fail = raises(RemoteError("away"))
    registry.stage(name="flaky", retry=Retry(2))(fails_until(tmp_path, 3, fail))
    result = runner.run("flaky")
    again = runner.resume(result.id)
    assert str(again.state) == "Completed"
    assert [item.number for item in Store(home).attempts(result.id)] == [1, 2, 3, 4]
