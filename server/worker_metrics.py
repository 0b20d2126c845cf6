"""One ``/metrics`` for all workers: whichever is asked, the answer is the sum over all of them.

Each worker keeps its own registry. In a private folder that the parent made, worker 7 has ``7.json``, the
values that it told last, and ``7.sock``, its bell: whoever rings has it write the file anew and hang up. As
nothing is told that was not written first, a counter never goes down: the file of a worker that hangs, was
killed or has ended stands in for it. The parent folds the files of the ended into ``ended.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger("hedgerow.server")

Families: TypeAlias = list[Metric]

DEADLINE = 0.5
"""Seconds that the siblings have to answer the bell; a scrape is not worth more waiting."""
LARGEST = frozenset({"hedgerow_circuit_state", "hedgerow_circuit_seconds_to_probe"})
"""Gauges of what the workers share: all of them show the same thing, so it must not be added up."""
LASTING = frozenset({"counter", "histogram", "summary"})
"""Kinds that count what has been, and stay when a worker ends; a gauge tells what is, and ends with it."""
ENDED = "ended.json"


def merge(sources: Iterable[Iterable[Metric]]) -> Families:
    """
    The families of all *sources* as those of one process: samples with the same name and labels are added
    up, or the largest is taken where they speak of the same thing (`LARGEST`).
    """
    merged: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, ...], list[Any]]] = {}
    for family in (family for source in sources for family in source):
        merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        samples = values.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, *(text for label in sorted(sample.labels.items()) for text in label))
            kept = samples.setdefault(key, [sample.name, sample.labels, None])
            kept[2] = _add(family.name, kept[2], sample.value)
    for name, family in merged.items():
        for sample_name, labels, value in values[name].values():
            family.add_sample(sample_name, labels, value)
    return list(merged.values())


def lasting(families: Iterable[Metric]) -> Families:
    """What of *families* stays when their worker has ended."""
    return [family for family in families if family.type in LASTING]


def _add(name: str, before: float | None, value: float) -> float:
    if before is None:
        return value
    return max(before, value) if name in LARGEST else before + value


class Folder:
    """The folder in which the workers leave their values, by number."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def bell(self, number: int) -> Path:
        """The socket of worker *number*."""
        return self._path / f"{number}.sock"

    def bells(self) -> set[int]:
        """The workers that can be asked."""
        return {int(path.stem) for path in self._path.glob("*.sock")}

    def write(self, number: int, families: Iterable[Metric]) -> None:
        """Put *families* in the place of what worker *number* told before, in one step."""
        self._replace(f"{number}.json", _packed(families))

    def read(self, alive: set[int]) -> Families:
        """The sum over all workers, of which those in *alive* have gauges too."""
        told: dict[int, Families] = {}
        for path in self._path.glob("[0-9]*.json"):
            with contextlib.suppress(FileNotFoundError):  # folded since; then it is in what is read below
                told[int(path.stem)] = _unpacked(json.loads(path.read_text("utf-8")))
        numbers, ended = self._ended()  # read last: a file is removed only after it was folded into this
        sources = [
            families if number in alive else lasting(families)
            for number, families in sorted(told.items())
            if number not in numbers
        ]
        return merge([*sources, ended])

    def fold(self, number: int) -> None:
        """Worker *number* has ended: keep what lasts of its values. Only the parent calls this."""
        path = self._path / f"{number}.json"
        self.bell(number).unlink(missing_ok=True)
        if not path.exists():
            return
        numbers, ended = self._ended()
        families = merge([ended, lasting(_unpacked(json.loads(path.read_text("utf-8"))))])
        self._replace(ENDED, {"workers": [*sorted(numbers), number], "families": _packed(families)})
        path.unlink()

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _ended(self) -> tuple[set[int], Families]:
        try:
            kept = json.loads((self._path / ENDED).read_text("utf-8"))
        except FileNotFoundError:
            return set(), []
        return set(kept["workers"]), _unpacked(kept["families"])

    def _replace(self, name: str, content: object) -> None:
        new = self._path / f"{name}.new"
        new.write_text(json.dumps(content), "utf-8")
        new.replace(self._path / name)


def _packed(families: Iterable[Metric]) -> list[Any]:
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [[sample.name, sample.labels, sample.value] for sample in family.samples],
        ]
        for family in families
    ]


def _unpacked(packed: list[Any]) -> Families:
    families = []
    for name, documentation, kind, samples in packed:
        family = Metric(name, documentation, kind)
        for sample in samples:
            family.add_sample(*sample)
        families.append(family)
    return families


class Gathered(Collector):
    """Families that are already there, so that a registry, and with it every encoder, can show them."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Teller:
    """What worker *number* tells of itself, and of all when it is the one that is asked."""

    def __init__(self, folder: Folder, number: int) -> None:
        self._folder = folder
        self._number = number

    @contextlib.asynccontextmanager
    async def open(self, registry: CollectorRegistry) -> AsyncIterator[None]:
        """Answer the bell while the block runs; at its end leave the last values behind."""

        def rung(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._tell(registry)
            writer.close()

        bell = self._folder.bell(self._number)
        server = await asyncio.start_unix_server(rung, bell)
        try:
            yield
        finally:
            self._tell(registry)  # before the bell goes: there is no moment without the values
            server.close()
            bell.unlink(missing_ok=True)

    async def gather(self, registry: CollectorRegistry) -> CollectorRegistry:
        """The sum over all workers; *registry* is this one's own."""
        self._tell(registry)
        asked = sorted(self._folder.bells() - {self._number})
        rings = [asyncio.ensure_future(_ring(self._folder.bell(number))) for number in asked]
        if rings:
            await asyncio.wait(rings, timeout=DEADLINE)
        silent = [number for number, ring in zip(asked, rings, strict=True) if not ring.done()]
        told = [n for n, ring in zip(asked, rings, strict=True) if ring.done() and ring.result()]
        for ring in rings:
            ring.cancel()
        # In a thread: with many workers it takes milliseconds that somebody's deadline may not have.
        families = await asyncio.to_thread(self._folder.read, {self._number, *told, *silent})
        gathered = CollectorRegistry()
        gathered.register(Gathered([*families, _workers(1 + len(told), len(silent))]))
        return gathered

    def _tell(self, registry: CollectorRegistry) -> None:
        try:
            self._folder.write(self._number, registry.collect())
        except OSError as error:  # a full disk must not take the metrics of the others away, nor the worker
            log.warning("metrics of worker %d cannot be written: %s", self._number, error)


async def _ring(bell: Path) -> bool:
    """Have the worker behind *bell* write its values; False if there is none any more."""
    try:
        reader, writer = await asyncio.open_unix_connection(bell)
    except OSError:
        return False
    try:
        await reader.read()  # it hangs up when it has written
    except OSError:
        return False
    finally:
        writer.close()
    return True


def _workers(told: int, silent: int) -> Metric:
    family = GaugeMetricFamily(
        "hedgerow_workers",
        "Workers by whether they told their values in time; the last ones of the silent are counted.",
        labels=["state"],
    )
    family.add_metric(["told"], told)
    family.add_metric(["silent"], silent)
    return family
