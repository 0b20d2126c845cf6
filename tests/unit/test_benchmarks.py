"""The arithmetic of the benchmarks: a wrong ratio or a kind judge would go unnoticed in a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import __main__ as command
from benchmarks import rig
from benchmarks.figures import good_share, median_ratio, recovery, rotated
from benchmarks.generator import Load, Seen
from benchmarks.processes import Cores, Process
from benchmarks.rig import Bench, Place, Window, wrong
from benchmarks.schedule import Phase, parse_schedule
from benchmarks.sections import Report, mark, overload
from benchmarks.servers import ours
from benchmarks.targets import at_least, at_most

SEEN = Seen(
    seconds=2.0,
    sent=1000,
    good=700,
    refused=100,
    failed=50,
    late=90,
    late_200=40,
    unanswered=60,
    no_connection=5,
    broken=0,
    answered=1100,
    opened=70,
    stall_ms=1.0,
    status={"200": 740, "500": 50, "503": 150},
    latency_ms={"all": {"p99": 600.0}, "200": {"p50": 12.5}, "refused": {"p99": 40.0}},
)
WINDOW = Window("hedgerow", Load(("first",)), SEEN, 100.0, 50.0, 60.0, 0.1, 0.0, {})


def second(sent: int, good: int) -> dict[str, int]:
    """One second of a series."""
    return {"sent": sent, "good": good}


# Schedules ------------------------------------------------------------------------------------------------


def test_a_rate_with_an_x_is_a_multiple_of_the_capacity() -> None:
    """As it is written in the issue."""
    assert parse_schedule("0.5x 5s, 10x 2.5s,0.5x 5s", 4000) == (
        Phase(2000.0, 5.0),
        Phase(40000.0, 2.5),
        Phase(2000.0, 5.0),
    )


def test_a_rate_without_an_x_is_requests_per_second() -> None:
    """Whatever the capacity."""
    assert parse_schedule("300 1s", 4000) == (Phase(300.0, 1.0),)


@pytest.mark.parametrize(
    "text", ["", "10x", "5s", "10x5s", "x 5s", "-1x 5s", "1x 5", "0x 5s", "1x 0s", "1x 1s,"]
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    """Rather than measured as something else."""
    with pytest.raises(ValueError, match="is no"):
        parse_schedule(text, 1000)


# Ratios and recovery --------------------------------------------------------------------------------------


def test_ratios_are_taken_within_each_round() -> None:
    """A round that was slow for both says the same as the others; the ratio of the medians would be 0.5."""
    assert median_ratio([10, 20, 100], [20, 40, 50]) == 0.5
    assert median_ratio([10, 90, 100], [20, 30, 50]) == 2.0


@pytest.mark.parametrize(("ours_", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_that_do_not_match_have_no_ratio(ours_: list[float], theirs: list[float]) -> None:
    """A missing round must not shift the others."""
    with pytest.raises(ValueError, match="rounds"):
        median_ratio(ours_, theirs)


def test_each_server_is_the_first_of_a_round_in_turn() -> None:
    """A B C, B C A, C A B."""
    assert [rotated(["A", "B", "C"], number)[0] for number in range(4)] == ["A", "B", "C", "A"]
    assert sorted(rotated(["A", "B", "C"], 2)) == ["A", "B", "C"]


def test_recovery_counts_from_the_fall_to_the_last_bad_second() -> None:
    """A good second before a bad one is no recovery."""
    series = [
        second(100, 100),
        second(900, 80),
        second(100, 20),
        second(100, 100),
        second(100, 90),
        second(100, 99),
    ]
    assert recovery(series, 2) == 3.0


def test_who_is_well_at_once_needs_no_time() -> None:
    """Zero seconds."""
    assert recovery([second(900, 80), second(100, 100)], 1) == 0.0


@pytest.mark.parametrize("series", [[second(900, 80), second(100, 98)], [second(900, 80)]])
def test_who_is_not_well_at_the_end_has_not_recovered(series: list[dict[str, int]]) -> None:
    """None, which no target takes for a time; so is a series that ends before the fall."""
    assert recovery(series, 1) is None


def test_recovery_asks_for_what_is_usual_and_no_more() -> None:
    """Over an upstream that fails a tenth, 90 % are all there is."""
    assert recovery([second(100, 10), second(100, 90)], 1) is None
    assert recovery([second(100, 10), second(100, 90)], 1, usual=0.9) == 0.0


def test_a_second_in_which_nobody_asked_is_a_good_one() -> None:
    """It has no share of its own."""
    assert good_share(second(0, 0)) == 1.0
    assert good_share(second(4, 1)) == 0.25


# Targets --------------------------------------------------------------------------------------------------


def test_a_target_is_met_at_its_limit_and_missed_beyond() -> None:
    """On either side."""
    assert at_most("late", 0.0, 0.0).met
    assert not at_most("late", 0.001, 0.0).met
    assert at_least("kept", 0.75, 0.75).met
    assert not at_least("kept", 0.749, 0.75).met


def test_a_figure_that_could_not_be_had_meets_no_target() -> None:
    """Not even one that it could not exceed."""
    judged = at_most("back", None, 2.0, "s")
    assert not judged.met
    assert str(judged) == "MISSED  back: never, at most 2 s"


def test_a_missed_target_tells_by_how_much() -> None:
    """In its own unit."""
    assert str(at_least("goodput at 5x", 0.8, 0.88, "%")).endswith("80 %, at least 88 %: missed by 8 %")
    assert str(at_most("CPU", 1.25, 1.0)).endswith("1.25, at most 1: missed by 0.25")
    assert str(at_most("CPU", 0.5, 1.0)).startswith("met ")


def test_overload_is_judged_by_its_load() -> None:
    """At 10x by what was kept, at 0.7x by what was served; and by how fast refusals are."""
    late = replace(SEEN, latency_ms={**SEEN.latency_ms, "refused": {"p99": 51.0}})
    found = overload.Flooded(
        "hedgerow", 400.0, {0.7: WINDOW, 10.0: replace(WINDOW, seen=late)}, WINDOW, back=3.0
    )
    met = {one.what: one.met for one in overload.judge(found)}
    assert met == {
        "served at 0.7x": False,  # 700 of 1000
        "p99 of refusals at 0.7x": True,
        "goodput at 10x": True,  # 350 of 400 per second
        "late 200s at 10x": False,
        "p99 of refusals at 10x": False,
        "back to normal after the step": False,
    }


# What the generator is told, and what it tells ----------------------------------------------------------


def test_the_late_share_counts_those_who_were_never_answered() -> None:
    """90 late and 60 unanswered of 1000."""
    assert SEEN.late_share == 0.15


def test_goodput_is_good_answers_per_second() -> None:
    """Of the window, without its warm-up."""
    assert SEEN.goodput == 350.0


def test_a_quantile_of_nothing_is_missing() -> None:
    """And not zero."""
    assert SEEN.took("200", "p50") == 12.5
    assert SEEN.took("200", "p99") is None


def test_a_closed_loop_is_told_its_callers_and_an_open_one_its_rates() -> None:
    """Never both: the generator could not know which is meant."""
    around = Load(("first", "all"), 0.3, callers=64, seconds=2.0).arguments("http://h:1")
    assert "http://h:1/api/first?timeout=300,/api/all?timeout=300" in around
    assert around[around.index("-callers") + 1] == "64"
    assert "-rates" not in around
    open_ = Load(("first",), phases=(Phase(1500.0, 2.5), Phase(10.0, 1.0))).arguments("http://h:1")
    assert open_[open_.index("-rates") + 1] == "1500:2.5s,10:1s"
    assert "-callers" not in open_


# Windows ------------------------------------------------------------------------------------------------


def measured(monkeypatch: pytest.MonkeyPatch, foreign: list[float], patience: float) -> tuple[Window, int]:
    """The window that is kept, and how often it was measured, while others use so many cores."""
    loads = iter(foreign)
    taken = 0

    def once(place: Place, load: Load, cores: Cores) -> Window:
        nonlocal taken
        taken += 1
        return replace(WINDOW, foreign=next(loads))

    monkeypatch.setattr(rig, "_measure", once)
    place = Place(ours(), "http://h:1", Process.__new__(Process), "http://h:2")
    return Bench(Cores(0, 1, 1), patience).measure(place, WINDOW.load), taken


def test_a_quiet_window_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of a core is not too much."""
    window, taken = measured(monkeypatch, [0.33], 60.0)
    assert (window.noisy, taken) == (False, 1)


@pytest.mark.parametrize(("second_time", "noisy"), [(0.1, False), (0.6, True), (1.5, True)])
def test_a_disturbed_window_is_measured_again_and_the_quieter_one_kept(
    monkeypatch: pytest.MonkeyPatch, second_time: float, noisy: bool
) -> None:
    """Once; if it was no better, that is told."""
    window, taken = measured(monkeypatch, [1.0, second_time], 60.0)
    assert (window.foreign, window.noisy, taken) == (min(1.0, second_time), noisy, 2)


def test_a_busy_machine_does_not_keep_us_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without patience there is no second time, and the window is marked."""
    window, taken = measured(monkeypatch, [1.0], 0.0)
    assert taken == 1
    assert mark([window]) == "1.00*"


def test_leaks_and_odd_statuses_are_told_of_our_server_alone() -> None:
    """A peer may answer as it likes; what we answer wrongly ends the run with a failure."""
    leaking = replace(WINDOW, left={"hedgerow_losers": 2.0})
    odd = replace(WINDOW, seen=replace(SEEN, status={"200": 1, "502": 3}))
    assert wrong(WINDOW) == []
    assert wrong(leaking) == ["hedgerow first: not back to base: {'hedgerow_losers': 2.0}"]
    assert wrong(odd) == ["hedgerow first: statuses that are none of the contract's: {'502': 3}"]
    report = Report("x", "x", ("a",), [(1,)], "", windows=[WINDOW, odd, replace(odd, server="go")])
    assert report.wrong == wrong(odd)


# The command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["nonsense"], ["overload", "--schedule", "10x"], ["--peers", "maybe"]])
def test_a_command_line_that_means_nothing_is_refused(argv: list[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit) as caught:
        command.parse(argv)
    assert caught.value.code == 2


def test_without_a_toolchain_the_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, and the command that helps."""
    monkeypatch.setattr("benchmarks.golang.CACHE", tmp_path)
    monkeypatch.setattr("benchmarks.golang.toolchain", lambda: None)
    monkeypatch.setattr(command, "end_on_sigterm", lambda: None)
    assert command.main([]) == 2
    assert "no Go toolchain" in capsys.readouterr().err
