"""Metrics of several workers as those of one: what is added, what is not, and what stays."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from server.worker_metrics import Folder, Gathered, Teller, lasting, merge


def registry(
    requests: float = 1, busy: float = 1, state: float = 0, seconds: float = 0.2
) -> CollectorRegistry:
    """What one worker has counted."""
    made = CollectorRegistry()
    Counter("requests", "Requests.", ["route"], registry=made).labels("first").inc(requests)
    Gauge("busy", "Busy.", registry=made).set(busy)
    Gauge("hedgerow_circuit_state", "State.", ["upstream"], registry=made).labels("work").set(state)
    Histogram("seconds", "Seconds.", buckets=(0.1, 1), registry=made).observe(seconds)
    return made


def values(families: list[Metric]) -> dict[str, float]:
    """Each sample by its name, with the bound of a bucket."""
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_workers_are_added_up() -> None:
    """Counters, histograms and gauges are sums; of what is shared, every worker shows the same."""
    merged = merge([registry(1, 2, 0, 0.05).collect(), registry(10, 3, 2, 0.5).collect()])
    assert values(merged) == {
        "requests_total": 11,
        "busy": 5,
        "hedgerow_circuit_state": 2,
        "seconds_bucket0.1": 1,
        "seconds_bucket1.0": 2,
        "seconds_bucket+Inf": 2,
        "seconds_count": 2,
        "seconds_sum": 0.55,
    }


def test_series_that_only_one_has_stay_apart() -> None:
    """Labels are compared by name and value."""
    one, two = CollectorRegistry(), CollectorRegistry()
    Counter("requests", "Requests.", ["route"], registry=one).labels("first").inc()
    Counter("requests", "Requests.", ["route"], registry=two).labels("all").inc(2)
    [family] = merge([one.collect(), two.collect()])
    found = {s.labels["route"]: s.value for s in family.samples if s.name == "requests_total"}
    assert found == {"first": 1, "all": 2}


def test_what_is_merged_can_be_told() -> None:
    """Both text formats read back as what one process would have told, buckets in order."""
    gathered = CollectorRegistry()
    gathered.register(Gathered(merge([registry().collect(), registry().collect()])))
    assert b'requests_total{route="first"} 2.0\n' in generate_latest(gathered)
    told = generate_openmetrics(gathered).decode()
    assert values(list(text_string_to_metric_families(told)))["seconds_bucket1.0"] == 2


def test_gauges_end_with_their_worker() -> None:
    """What has been counted stays."""
    assert {family.name for family in lasting(registry().collect())} == {"requests", "seconds"}


def test_the_folder_keeps_what_the_ended_counted(tmp_path: Path) -> None:
    """Before it is folded, after it, and with a second one that ends."""
    folder = Folder(tmp_path)
    for number in (1, 2, 3):
        folder.write(number, registry(10**number).collect())
    assert values(folder.read({1, 2, 3}))["busy"] == 3
    for number in (1, 2):
        assert values(folder.read({3}))["requests_total"] == 1110
        folder.fold(number)
    told = values(folder.read({3}))
    assert (told["requests_total"], told["busy"], told["seconds_count"]) == (1110, 1, 3)


def test_one_that_is_folded_while_it_is_read_counts_once(tmp_path: Path) -> None:
    """Its file may still be there when its values are in the sum already."""
    folder = Folder(tmp_path)
    folder.write(1, registry(5).collect())
    before = (tmp_path / "1.json").read_bytes()
    folder.fold(1)
    (tmp_path / "1.json").write_bytes(before)
    assert values(folder.read(set()))["requests_total"] == 5


def test_the_end_of_one_that_never_told(tmp_path: Path) -> None:
    """There is nothing to keep."""
    Folder(tmp_path).fold(7)
    assert Folder(tmp_path).read(set()) == []


async def test_whoever_is_asked_tells_for_all(tmp_path: Path) -> None:
    """Values are fresh, and a worker that has ended is missed by none of its counters."""
    folder = Folder(tmp_path)
    mine, other = registry(1), registry(10)
    teller = Teller(folder, 1)
    async with teller.open(mine):
        async with Teller(folder, 2).open(other):
            told = values(list((await teller.gather(mine)).collect()))
            assert (told["requests_total"], told["busy"]) == (11, 2)
        told = values(list((await teller.gather(mine)).collect()))
        assert (told["requests_total"], told["busy"]) == (11, 1)
        assert not folder.bell(2).exists()


@pytest.mark.fault(105)
async def test_the_last_values_of_a_silent_worker_are_told(tmp_path: Path) -> None:
    """One that hangs is waited for half a second, counted as silent, and none of its counters goes down."""
    folder = Folder(tmp_path)
    folder.write(2, registry(10).collect())
    held: list[asyncio.StreamWriter] = []
    hangs = await asyncio.start_unix_server(lambda reader, writer: held.append(writer), folder.bell(2))
    async with hangs:
        gathered = await Teller(folder, 1).gather(registry(1))
        for writer in held:
            writer.close()
    text = generate_latest(gathered)
    assert b'requests_total{route="first"} 11.0\n' in text
    assert b'hedgerow_workers{state="silent"} 1.0\n' in text


@pytest.mark.fault(105)
async def test_a_killed_worker_leaves_its_bell_and_its_counters(tmp_path: Path) -> None:
    """Nobody answers behind the socket, so its gauges are gone; what it told last is kept."""
    folder = Folder(tmp_path)
    folder.write(2, registry(10).collect())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder.bell(2)))
    told = values(list((await Teller(folder, 1).gather(registry(1))).collect()))
    assert (told["requests_total"], told["busy"]) == (11, 1)
