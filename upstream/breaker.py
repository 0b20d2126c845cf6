"""The circuit breaker: stops calling what is broken, and finds out gently when it is well again.

Two rules of this room: everything that changes a circuit's state is in this file, and nothing in it reads a
clock, draws luck by itself, or waits. ``now`` is an argument, in seconds of a monotonic clock.

Theory of operation
-------------------
A circuit is CLOSED while calls go out and their verdicts are watched by a *rule*. When the rule trips it is
OPEN: calls are refused at once, so that a struggling upstream gets rest and callers get their answer. After
the open time the next call finds it HALF_OPEN and is admitted as the one *probe*; all others are still
refused. The probe's success closes the circuit and forgets the past. Its failure opens it again for twice as
long, up to a cap. A probe that says nothing (its caller went away) gives the slot to the next call.

Whatever was admitted carries the *generation* of the circuit at that moment, and each change of state begins
a new one. A reply of an earlier generation changes nothing: a call that was admitted while closed and fails
after the circuit has opened must not extend the open time, and one that succeeds must not close it.

What the circuit remembers is one small value, `Memory`, kept by a *store*. In one process that is a plain
attribute; over several workers it is a record that all of them see (`upstream.shared_memory`), so that there
is one probe over all of them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Protocol, TypeAlias

from strategies import Verdict, value
from upstream.admission import Refusal


class State(Enum):
    """Whether calls go out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(Enum):
    """What moves a circuit."""

    TRIPPED = "the rule trips"
    WAITED = "the open time is over"
    PROBE_SUCCEEDED = "the probe succeeds"
    PROBE_FAILED = "the probe fails"


MOVES: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.WAITED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.PROBE_SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Event.PROBE_FAILED): State.OPEN,
}
"""Every move there is. The diagram in the documentation is drawn from this table."""

Listener: TypeAlias = Callable[[State, State, float], None]
"""Told each change: from, to, and when."""


@value
class BreakerOptions:
    """
    Attributes:
        failures, window: trip at this many failures within this many seconds; each within the window
            counts, whatever succeeds in between.
        ratio, minimum: with a *ratio* above 0 trip instead when this share of the calls in the window
            failed, of at least *minimum* calls. For busy upstreams, where three failures are nothing.
        open_time: seconds of the first opening.
        cap: no opening is longer.
        jitter: the share by which an opening is made longer or shorter, so that many callers of one
            upstream do not all probe it in the same instant.
        probe_time: seconds after which a probe that nobody settled (its process was killed) gives up its
            slot.
    """

    failures: int = 3
    window: float = 30.0
    ratio: float = 0.0
    minimum: int = 20
    open_time: float = 10.0
    cap: float = 60.0
    jitter: float = 0.1
    probe_time: float = 60.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("failures", 1, 16),
            ("window", 0.001, 86_400),
            ("ratio", 0, 1),
            ("minimum", 1, 1_000_000),
            ("open_time", 0.001, 86_400),
            ("cap", self.open_time, 86_400),
            ("jitter", 0, 0.5),
            ("probe_time", 0.001, 86_400),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")


@value
class Memory:
    """
    All that a circuit remembers.

    Attributes:
        state, generation: as in the theory of operation.
        openings: how often it opened since it was last closed.
        until: when the open time is over, or, half open, when the probe's slot is given up; 0 for free.
        failures: when the latest failures were, oldest first.
    """

    state: State = State.CLOSED
    generation: int = 0
    openings: int = 0
    until: float = 0.0
    failures: tuple[float, ...] = ()


class Store(Protocol):
    """Keeps one circuit's `Memory`."""

    def read(self) -> Memory:
        """What is remembered, for a look."""

    def write(self, memory: Memory) -> None:
        """Remember *memory*. Only while the lock is held."""

    def lock(self) -> AbstractContextManager[object]:
        """Hold this to read and write as one."""


class LocalStore:
    """A memory of this process alone. One thread runs the loop, so nothing has to be locked."""

    def __init__(self) -> None:
        self._memory = Memory()

    def read(self) -> Memory:
        return self._memory

    def write(self, memory: Memory) -> None:
        self._memory = memory

    def lock(self) -> AbstractContextManager[object]:
        return nullcontext()


class CircuitPermit:
    """Admits one call. See `upstream.admission.Permit`."""

    __slots__ = ("_circuit", "_generation", "_settled")

    def __init__(self, circuit: CircuitBreaker, generation: int) -> None:
        self._circuit = circuit
        self._generation = generation
        self._settled = False

    def settle(self, verdict: Verdict, now: float) -> None:
        """Tell the circuit what became of the call; the second telling changes nothing."""
        if not self._settled:
            self._settled = True
            self._circuit._settle(self._generation, verdict, now)


class CircuitBreaker:
    """
    One circuit: an `upstream.admission.AdmissionController`.

    Args:
        options: when to trip and how long to stay open.
        rng: decides the jitter.
        store: keeps the memory.

    Attributes:
        refusals: calls refused so far.
        entered: how often this process moved it into each state.
    """

    def __init__(
        self,
        options: BreakerOptions,
        rng: random.Random,
        store: Store | None = None,
    ) -> None:
        self._options = options
        self._rng = rng
        self._store = store or LocalStore()
        self._listeners: list[Listener] = []
        self._calls: deque[tuple[float, bool]] = deque()
        """Recent calls of this process and whether they failed; only the ratio rule keeps them."""
        self._changes: deque[tuple[State, State, float]] = deque()
        self.refusals = 0
        self.entered = dict.fromkeys(State, 0)

    def listen(self, listener: Listener) -> None:
        """Tell *listener* each change of state that this process makes from now on, after it has happened."""
        self._listeners.append(listener)

    def state(self, now: float) -> State:
        """The state that a call at *now* would meet: an open time that is over counts as half open."""
        memory = self._store.read()
        return State.HALF_OPEN if memory.state is State.OPEN and now >= memory.until else memory.state

    def seconds_left(self, now: float) -> float:
        """Seconds until the next probe may go out; 0 unless open."""
        memory = self._store.read()
        return max(0.0, memory.until - now) if memory.state is State.OPEN else 0.0

    def admit(self, now: float) -> CircuitPermit | Refusal:
        """A permit for a call at *now*, or a refusal with the seconds until it makes sense to ask again."""
        memory = self._store.read()
        if memory.state is State.CLOSED:
            return CircuitPermit(self, memory.generation)
        if now < memory.until:  # open, or half open with a probe under way; most calls end here, unlocked
            return self._refuse(memory, now)
        with self._store.lock():
            memory = self._store.read()  # another worker may have been faster
            if memory.state is State.CLOSED:
                return CircuitPermit(self, memory.generation)
            if now < memory.until:
                return self._refuse(memory, now)
            permit = self._probe(memory, now)
        self._announce()
        return permit

    def _refuse(self, memory: Memory, now: float) -> Refusal:
        """While the probe is under way nobody knows how long; a second is a fair guess."""
        self.refusals += 1
        left = memory.until - now if memory.state is State.OPEN else 1.0
        return Refusal("circuit_open", left, memory.state.value)

    def _probe(self, memory: Memory, now: float) -> CircuitPermit:
        """Give the one slot to this call. A slot that is given again begins a new generation too."""
        until = now + self._options.probe_time
        if memory.state is State.OPEN:
            self._move(memory, Event.WAITED, now, openings=memory.openings, until=until)
        else:
            self._store.write(Memory(memory.state, memory.generation + 1, memory.openings, until))
        return CircuitPermit(self, self._store.read().generation)

    def _settle(self, generation: int, verdict: Verdict, now: float) -> None:
        memory = self._store.read()
        if memory.generation != generation:
            return  # a late reply: it belongs to a state that is over
        if self._options.ratio and verdict is not Verdict.IGNORED:
            self._remember(now, verdict is Verdict.FAILURE)
        if memory.state is State.CLOSED and verdict is not Verdict.FAILURE:
            return  # what nearly every call comes to: nothing to write, so no lock is taken
        with self._store.lock():
            memory = self._store.read()
            if memory.generation == generation:
                self._learn(memory, verdict, now)
        self._announce()

    def _learn(self, memory: Memory, verdict: Verdict, now: float) -> None:
        """A failure while closed, or the word of the probe."""
        if memory.state is State.CLOSED:
            self._count(memory, now)
        elif verdict is Verdict.SUCCESS:
            self._move(memory, Event.PROBE_SUCCEEDED, now, openings=0, until=0.0)
        elif verdict is Verdict.FAILURE:
            self._open(memory, Event.PROBE_FAILED, now)
        else:
            self._store.write(Memory(memory.state, memory.generation + 1, memory.openings, 0.0))

    def _count(self, memory: Memory, now: float) -> None:
        """One more failure while closed: trip, or remember it."""
        options = self._options
        recent = tuple(when for when in memory.failures if when > now - options.window)
        failures = (*recent, now)[-options.failures :]
        tripped = self._ratio_trips() if options.ratio else len(failures) >= options.failures
        if tripped:
            self._open(memory, Event.TRIPPED, now)
        else:
            self._store.write(Memory(memory.state, memory.generation, memory.openings, 0.0, failures))

    def _open(self, memory: Memory, event: Event, now: float) -> None:
        options = self._options
        seconds = min(options.cap, options.open_time * 2**memory.openings)
        seconds = min(options.cap, seconds * (1 + options.jitter * self._rng.uniform(-1, 1)))
        # 2**n beyond the cap would only grow; 32 doublings reach any cap there is.
        self._move(memory, event, now, openings=min(memory.openings + 1, 32), until=now + seconds)

    def _move(self, memory: Memory, event: Event, now: float, *, openings: int, until: float) -> None:
        before, after = memory.state, MOVES[memory.state, event]
        self._store.write(Memory(after, memory.generation + 1, openings, until))
        self._calls.clear()
        self._changes.append((before, after, now))

    def _announce(self) -> None:
        """Tell the listeners what has changed; never while the lock is held."""
        while self._changes:
            change = self._changes.popleft()
            self.entered[change[1]] += 1
            for listener in self._listeners:
                listener(*change)

    def _remember(self, now: float, failed: bool) -> None:
        self._calls.append((now, failed))
        while self._calls[0][0] <= now - self._options.window:
            self._calls.popleft()

    def _ratio_trips(self) -> bool:
        failed = sum(failed for _, failed in self._calls)
        return len(self._calls) >= self._options.minimum and failed >= self._options.ratio * len(self._calls)
