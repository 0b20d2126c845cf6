"""Tables that are written from the code, so that they cannot go stale.

``.. settings-table::`` from `server.settings.SettingsSchema`, ``.. metrics-table::`` from
`server.telemetry.Telemetry` and `server.downloads.metrics.Metrics`, and
``.. options-table:: module:Class`` from the options of a strategy.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from docutils import nodes
from marshmallow import fields as f
from marshmallow.validate import Length, OneOf, Range
from prometheus_client import CollectorRegistry
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from server.downloads.metrics import Metrics
from server.settings import NAMES_IN_ROUTES, SettingsSchema
from server.telemetry import Telemetry

Row = tuple[str, ...]


def list_table(head: Row, rows: Iterable[Row], widths: Sequence[int]) -> str:
    """A ``list-table`` in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (head, *rows):
        lines += [f"   {'*' if number == 0 else ' '} - {cell}" for number, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def setting_rows() -> list[Row]:
    """Name, default, range and meaning of every setting, as the schema has them."""
    rows = [
        (f"``{field.data_key}``", _default(field), _range(field), field.metadata["description"])
        for field in SettingsSchema().fields.values()
    ]
    return rows + [(f"``{name}``", "unset", "a URL", meaning) for name, meaning in NAMES_IN_ROUTES.items()]


def _is_milliseconds(field: f.Field[Any]) -> bool:
    return str(field.data_key).endswith("_MS")


def _default(field: f.Field[Any]) -> str:
    default = field.load_default
    if default is None or default in ("", ()):
        return "unset"
    if isinstance(default, bool):
        return f"``{max(field.truthy if default else field.falsy, key=len)}``"
    if isinstance(default, tuple):
        return f"``{','.join(default)}``"
    return f"``{round(default * 1000) if _is_milliseconds(field) else default}``"


def _range(field: f.Field[Any]) -> str:
    unit = " ms" if _is_milliseconds(field) else ""
    for check in field.validators:
        if isinstance(check, Range):
            return f"{check.min} to {check.max}{unit}"
        if isinstance(check, OneOf):
            return ", ".join(f"``{choice}``" for choice in check.choices)
        if isinstance(check, Length):
            return f"{check.min} to {check.max} characters"
    if field.validators:
        return "one of the forms at the right"
    return "a whole number" if isinstance(field, f.Integer) else "text"


def all_metrics() -> list[Told]:
    """Every metric, as the server registers it."""
    registry = CollectorRegistry()
    telemetry: Any = Telemetry(registry)
    if hasattr(telemetry, "watch_circuits"):
        telemetry.watch_circuits((), lambda: 0.0)
    Metrics(registry)
    found = []
    for collector in registry._collector_to_names:  # no public way gives the labels of one without samples
        families: list[Any] = list(collector.describe())  # type: ignore[attr-defined]
        for family in families:
            labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            found.append(Told(family.name, family.type, tuple(labels), family.documentation))
    return found


class Told(NamedTuple):
    """A metric in words."""

    name: str
    kind: str
    labels: tuple[str, ...]
    documentation: str

    @property
    def shown(self) -> str:
        """As Prometheus shows it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def metric_rows() -> list[Row]:
    """Name, kind, labels and meaning of every metric."""
    return sorted(
        (
            f"``{metric.shown}``",
            metric.kind,
            ", ".join(f"``{label}``" for label in metric.labels) or "none",
            metric.documentation,
        )
        for metric in all_metrics()
    )


def option_rows(options: type[Any]) -> list[Row]:
    """Name, default and meaning of the options of a strategy; the meaning is from the docstring."""
    _, _, told = inspect.cleandoc(options.__doc__ or "").partition("Attributes:")
    found = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", told, re.MULTILINE)
    meanings = {name: meaning for names, meaning in found for name in names.split(", ")}
    return [
        (f"``{field.name}``", f"``{field.default!r}``", " ".join(meanings[field.name].split()))
        for field in dataclasses.fields(options)
    ]


class SettingsTable(SphinxDirective):
    """``.. settings-table::``"""

    def run(self) -> list[nodes.Node]:
        head = ("Variable", "Default", "Range", "Meaning")
        return self.parse_text_to_nodes(list_table(head, setting_rows(), (30, 15, 20, 35)))


class MetricsTable(SphinxDirective):
    """``.. metrics-table::``"""

    def run(self) -> list[nodes.Node]:
        head = ("Metric", "Kind", "Labels", "Meaning")
        return self.parse_text_to_nodes(list_table(head, metric_rows(), (35, 12, 20, 33)))


class OptionsTable(SphinxDirective):
    """``.. options-table:: module:Class``"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].partition(":")
        head = ("Option", "Default", "Meaning")
        rows = option_rows(getattr(import_module(module), name))
        return self.parse_text_to_nodes(list_table(head, rows, (20, 15, 65)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("metrics-table", MetricsTable)
    app.add_directive("options-table", OptionsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
