"""The model of a latency: right about what was given up, quick to learn, and constant in size."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from strategies import LatencyModel


def lognormal(seed: int = 1) -> Iterator[float]:
    """Median 5 ms; its 0.9 quantile is 18 ms, its 0.95 quantile 26 ms."""
    rng = random.Random(seed)
    while True:
        yield rng.lognormvariate(-5.298, 1.0)


def test_it_says_nothing_before_it_has_seen_enough() -> None:
    """Thirty good answers; silence, however much of it, is none."""
    model = LatencyModel(warm_up=30)
    for _ in range(29):
        model.observe(0.1, finished=True)
    for _ in range(1000):
        model.observe(1.0, finished=False)
    assert model.quantile(0.5) is None
    assert model.chance(0.001) == 1
    assert model.chance(0) == 0
    model.observe(0.1, finished=True)
    assert model.quantile(0.01) is not None


@pytest.mark.parametrize(("q", "seconds"), [(0.1, 0.00139), (0.5, 0.005), (0.9, 0.018), (0.95, 0.0259)])
def test_quantiles_of_what_was_seen_to_the_end(q: float, seconds: float) -> None:
    """Within 5 % of the truth, over four octaves."""
    model, draws = LatencyModel(window=5000), lognormal()
    for _ in range(20_000):
        model.observe(next(draws), finished=True)
    assert model.quantile(q) == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("q", "seconds", "within"), [(0.9, 0.018, 0.05), (0.95, 0.0259, 0.07), (0.99, 0.0512, 0.15)]
)
def test_its_own_hedging_does_not_mislead_it(q: float, seconds: float, within: float) -> None:
    """
    Each attempt is given up when a hedge, sent after 10 ms, wins: the quantiles stay those of the upstream,
    where the winners alone would have a 0.95 quantile of 16 ms.
    """
    model, draws = LatencyModel(window=10_000), lognormal()
    for _ in range(50_000):
        first, hedge = next(draws), next(draws)
        if first <= 0.010 + hedge:
            model.observe(first, finished=True)
            if first > 0.010:
                model.observe(first - 0.010, finished=False)
        else:
            model.observe(0.010 + hedge, finished=False)
            model.observe(hedge, finished=True)
    assert model.quantile(q) == pytest.approx(seconds, rel=within)


def test_the_chance_of_an_attempt_falls_with_its_silence() -> None:
    """One in ten hangs: an attempt that is silent after the slowest answer is a hanging one."""
    model, rng = LatencyModel(), random.Random(1)
    for number in range(5000):
        hangs = number % 10 == 0
        model.observe(1.0 if hangs else rng.uniform(0.1, 0.5), finished=not hangs)
    assert model.chance(10.0) == pytest.approx(0.9, abs=0.01)
    assert model.chance(0.2) == pytest.approx(0.9 / 4, abs=0.02)
    assert model.chance(10.0, given_waited=0.4) == pytest.approx(0.225 / 0.325, abs=0.04)
    assert model.chance(10.0, given_waited=0.55) == 0


def test_if_many_never_answer_it_is_the_quantile_of_those_that_do() -> None:
    """A delay of for ever would help nobody."""
    model = LatencyModel()
    for number in range(5000):
        hangs = number % 5 == 0
        model.observe(1.0 if hangs else 0.2 + number % 100 / 1000, finished=not hangs)
    assert model.quantile(0.95) == pytest.approx(0.295, rel=0.03)


def test_a_slowdown_is_learnt_in_a_tenth_of_the_window_and_forgotten_in_some_windows() -> None:
    """Ten times slower: some 100 samples there, some 2500 back."""
    model = LatencyModel(window=1000)

    def learn(seconds: float, samples: int) -> float:
        for _ in range(samples):
            model.observe(seconds, finished=True)
        found = model.quantile(0.911)
        assert found is not None
        return found

    assert learn(0.01, 5000) == pytest.approx(0.01, rel=0.05)
    assert learn(0.1, 200) == pytest.approx(0.1, rel=0.05)
    assert learn(0.01, 200) == pytest.approx(0.1, rel=0.05)
    assert learn(0.01, 3000) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-4, 1.0, 1e9, float("inf")])
def test_no_latency_is_too_short_or_too_long(seconds: float) -> None:
    """The first and the last bucket take what is beyond."""
    model = LatencyModel(warm_up=1)
    for _ in range(100):
        model.observe(seconds, finished=True)
    found = model.quantile(0.5)
    assert found is not None
    assert 0 <= found <= 2000
    assert 0 <= model.chance(1.0, given_waited=seconds) <= 1


def test_weights_never_overflow() -> None:
    """Nothing grows for ever: after many windows it is as it was."""
    model = LatencyModel(window=1)
    for _ in range(10_000):
        model.observe(0.01, finished=True)
    assert model.quantile(0.5) == pytest.approx(0.01, rel=0.05)


def test_arguments_out_of_range_are_refused() -> None:
    """The message names both."""
    with pytest.raises(ValueError, match="window and warm_up must be 1 or more, not 0 and 30"):
        LatencyModel(window=0)
