"""The gate: who is taken at once, who waits, and who is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from server.gate import EACH, FEW, LONG_WAIT, RETRY_AFTER, TURN, WAIT, Gate
from strategies import Verdict
from upstream.admission import Refusal

A_TURN = int(TURN / EACH)
"""Requests that a turn begins, as long as nothing else has been measured."""


@dataclass
class Guest:
    """One who writes down what became of it."""

    name: int
    told: list[int | tuple[int, str]]
    until: float = 1e9
    gone: bool = False
    patient: bool = False

    def can_wait(self, now: float, seconds: float) -> bool:
        return self.patient

    def hopeless(self, now: float, need: float) -> bool:
        return now + need > self.until

    def begin(self) -> None:
        self.told.append(self.name)

    def refuse(self, refusal: Refusal) -> None:
        assert refusal.retry_after in RETRY_AFTER
        self.told.append((self.name, refusal.reason))


@dataclass
class World:
    """A loop that turns when it is told to."""

    now: float = 100.0
    lag: float = 0.0
    soon: list[Callable[[], None]] = field(default_factory=list)
    told: list[int | tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = Gate(self.soon.append, lambda: self.now, lambda: self.lag, random.Random(1))

    def come(self, *names: int, timeout: float = 1.0) -> list[Guest]:
        guests = [Guest(name, self.told, self.now + timeout) for name in names]
        for guest in guests:
            self.gate.enter(guest, self.now)
        return guests

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        due, self.soon[:] = self.soon[:], []
        for callback in due:
            callback()


def crowd() -> World:
    """A gate with many requests under way already."""
    world = World()
    world.gate.in_flight = FEW
    return world


def test_who_comes_while_there_is_room_begins_at_once() -> None:
    """Up to the work of one turn."""
    world = crowd()
    world.come(*range(A_TURN))
    assert world.told == list(range(A_TURN))
    assert world.gate.in_flight == FEW + A_TURN


def test_the_others_wait_for_the_next_turns_the_youngest_first() -> None:
    """And nobody is lost."""
    world = crowd()
    world.come(*range(A_TURN + 5))
    world.turn()  # the end of this one, in which its room is used up
    assert world.told == list(range(A_TURN))
    world.turn()
    assert world.told[A_TURN:] == [A_TURN + 4, A_TURN + 3, A_TURN + 2, A_TURN + 1, A_TURN]
    world.turn()
    assert world.soon == []


def test_who_has_waited_for_too_long_is_refused() -> None:
    """Those who came first, when the turns are too short of room for all."""
    world = crowd()
    world.come(*range(3 * A_TURN))
    world.turn()
    world.turn(WAIT * 1.01)
    begun = [name for name in world.told[A_TURN:] if isinstance(name, int)]
    refused = [name for name in world.told if not isinstance(name, int)]
    assert begun == sorted(begun, reverse=True)
    assert begun[0] == 3 * A_TURN - 1
    assert refused == [(name, "wait") for name in range(A_TURN, begun[-1])]
    assert world.gate.in_flight == FEW + A_TURN + len(begun)


def test_who_is_back_before_its_time_waits_longer_and_after_the_others() -> None:
    """It was told when to come, and to refuse it again at once would be work for nothing."""
    world = crowd()
    world.come(*range(A_TURN))
    early = Guest(-1, world.told, patient=True)
    others = [Guest(-1 - n, world.told, patient=True) for n in range(1, 3 * A_TURN)]
    for guest in (early, *others):
        world.gate.enter(guest, world.now)
    world.come(A_TURN)
    world.turn()
    world.turn(WAIT * 1.01)
    assert world.told[A_TURN] == A_TURN
    assert all(isinstance(name, int) for name in world.told)
    world.turn(LONG_WAIT)
    assert (-1, "wait") in world.told


def test_who_cannot_be_answered_in_time_is_refused_for_its_age() -> None:
    """Also when there is room: the loop is so late that the answer would be."""
    world = World(lag=0.1)
    world.come(1, timeout=0.1)
    assert world.told == [(1, "age")]
    assert world.gate.in_flight == 0


def test_who_left_while_waiting_is_neither_begun_nor_told() -> None:
    """And takes nobody's room."""
    world = crowd()
    world.come(*range(A_TURN))
    for guest in world.come(A_TURN, A_TURN + 1):
        guest.gone = True
    world.turn()
    world.turn(WAIT * 1.01)
    assert world.told == list(range(A_TURN))
    assert world.gate.in_flight == FEW + A_TURN


def test_with_few_under_way_everybody_begins_however_late_it_is() -> None:
    """It was something else that held up the loop."""
    world = World()
    world.come(*range(A_TURN + 5))
    for _ in range(A_TURN):
        world.gate.settle(Verdict.SUCCESS, world.now)
    world.turn(10 * WAIT)
    assert sorted(name for name in world.told if isinstance(name, int)) == list(range(A_TURN + 5))


def test_a_turn_begins_fewer_when_they_prove_to_be_more_work() -> None:
    """It learns from how long the turn took that they had begun in."""
    world = crowd()
    for _ in range(100):
        world.come(*range(FEW))
        world.turn()
        world.turn(FEW * 10 * EACH)
    begun = len(world.told)
    world.come(*range(A_TURN))
    assert FEW <= len(world.told) - begun <= FEW + 1


def test_who_has_been_answered_makes_room_among_those_under_way() -> None:
    """The permit of each is the gate itself."""
    world = World()
    world.come(1)
    world.gate.settle(Verdict.SUCCESS, world.now)
    assert world.gate.in_flight == 0
