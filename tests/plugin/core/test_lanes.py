"""Lanes: what is worked on, dropped, stopped, and handed on."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from napari_sparseattn.plugin.core.lanes import AtOnce, Busy, Lane, Threads

from ..conftest import wait_until


@dataclasses.dataclass
class Request:
    name: str
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


class ByHand:
    """Starts work and leaves it to the test when it gives its values and ends."""

    def __init__(self) -> None:
        self.going: list[dict[str, Callable[..., None]]] = []
        self.delayed: list[Callable[[], None]] = []
        self.quits = 0

    def start(self, work: Callable[[], Any], **slots: Any) -> Callable[[], None]:
        self.going.append(slots)

        def quit_() -> None:
            self.quits += 1

        return quit_

    def later(self, milliseconds: int, call: Callable[[], None]) -> None:
        self.delayed.append(call)


def make(busy: Busy, runner: Any, work: Callable[[Request], Any] = lambda r: r.name) -> Any:
    log: list[tuple[str, str, Any]] = []
    lane = Lane(
        lambda: runner,
        work,
        given=lambda r, value: log.append(("given", r.name, value)),
        failed=lambda r, error: log.append(("failed", r.name, str(error))),
        ended=lambda r: log.append(("ended", r.name, None)),
        busy=busy,
    )
    return lane, log


def names(log: list[tuple[str, str, Any]], what: str) -> list[str]:
    return [name for kind, name, _ in log if kind == what]


def end(runner: ByHand, index: int) -> None:
    runner.going[index]["given"](index)
    runner.going[index]["finished"]()


def test_of_those_that_come_meanwhile_only_the_last_is_answered() -> None:
    runner = ByHand()
    lane, log = make("last", runner)
    first, *_ = requests = [Request(name) for name in "abcd"]
    for request in requests:
        lane.ask(request)
    assert len(runner.going) == 1
    assert not first.stop.is_set()
    end(runner, 0)
    assert len(runner.going) == 2
    end(runner, 1)
    assert names(log, "given") == ["a", "d"] == names(log, "ended")
    assert not lane.running


def test_a_new_request_stops_the_old_and_waits_for_its_end() -> None:
    runner = ByHand()
    lane, log = make("replace", runner)
    old, new = Request("old"), Request("new")
    lane.ask(old)
    lane.ask(new)
    assert old.stop.is_set()
    assert runner.quits == 1
    assert len(runner.going) == 1
    end(runner, 0)
    end(runner, 1)
    assert names(log, "given") == ["old", "new"]


@pytest.mark.parametrize(("busy", "going"), [("also", 3), ("queue", 1)])
def test_beside_each_other_or_in_turns(busy: Busy, going: int) -> None:
    runner = ByHand()
    lane, log = make(busy, runner)
    for name in "abc":
        lane.ask(Request(name))
    assert len(runner.going) == going
    for index in range(3):
        end(runner, index)
    assert names(log, "given") == ["a", "b", "c"]


def test_what_was_asked_before_closing_is_not_answered() -> None:
    runner = ByHand()
    lane, log = make("last", runner)
    asked = Request("old")
    lane.ask(asked)
    lane.ask(Request("waiting"))
    lane.close()
    assert asked.stop.is_set()
    lane.ask(Request("new"))
    end(runner, 0)
    end(runner, 1)
    assert names(log, "given") == ["new"]
    assert len(runner.going) == 2


def test_what_is_stopped_while_it_waits_never_starts() -> None:
    runner = ByHand()
    lane, _ = make("queue", runner)
    waiting = Request("b")
    lane.ask(Request("a"))
    lane.ask(waiting)
    waiting.stop.set()
    end(runner, 0)
    assert len(runner.going) == 1


def test_a_delayed_request_starts_later() -> None:
    runner = ByHand()
    lane, _ = make("last", runner)
    lane.ask(Request("a"), after_ms=40)
    assert not runner.going
    runner.delayed[0]()
    assert len(runner.going) == 1


def test_an_error_is_no_end_and_the_next_goes_on() -> None:
    def work(request: Request) -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    lane, log = make("last", AtOnce(), work)
    lane.ask(Request("a"))
    lane.ask(Request("b"))
    assert log == [
        ("given", "a", 1),
        ("failed", "a", "broken"),
        ("given", "b", 1),
        ("failed", "b", "broken"),
    ]


def test_faults_of_the_program_are_not_swallowed() -> None:
    def work(request: Request) -> None:
        raise KeyError("a fault")

    lane, _ = make("last", AtOnce(), work)
    with pytest.raises(KeyError):
        lane.ask(Request("a"))


def test_threads_answer_on_the_main_thread(qtbot: Any) -> None:
    threads: dict[str, Any] = {}

    def work(request: Request) -> Iterator[str]:
        threads["work"] = threading.current_thread()
        yield "one"
        yield "two"

    def given(request: Request, value: str) -> None:
        threads[value] = threading.current_thread()

    ends: list[str] = []
    lane = Lane(
        Threads,
        work,
        given=given,
        failed=lambda request, error: None,
        ended=lambda request: ends.append(request.name),
    )
    lane.ask(Request("a"))
    wait_until(qtbot, lambda: ends == ["a"])
    assert threads["work"] is not threading.main_thread()
    assert threads["one"] is threads["two"] is threading.main_thread()
    assert not lane.running


def test_a_generator_in_a_thread_is_stopped_between_its_values(qtbot: Any) -> None:
    going = threading.Event()

    def work(request: Request) -> Iterator[int]:
        number = 0
        while not request.stop.wait(0.001):
            going.set()
            yield number
            number += 1

    ends: list[str] = []
    lane = Lane(
        Threads,
        work,
        given=lambda request, value: None,
        failed=lambda request, error: None,
        ended=lambda request: ends.append(request.name),
    )
    lane.ask(Request("a"))
    wait_until(qtbot, going.is_set)
    lane.cancel()
    wait_until(qtbot, lambda: not lane.running)
    assert ends == ["a"]
