"""``.. faults-table:: D``: the rows of one group of the fault list, written from the tests that show them."""

from __future__ import annotations

from docutils import nodes
from reference_tables import Row, list_table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tests.faults import downloads_rows, inbound_rows, upstream_rows
from tests.faults.catalogue import GROUPS, shown


def fault_rows(group: str) -> list[Row]:
    """Number, what must hold, and the files whose tests show it, or why there is none."""
    texts = {**inbound_rows.ROWS, **upstream_rows.ROWS, **downloads_rows.ROWS}
    out = {**upstream_rows.OUT, **downloads_rows.OUT}
    files: dict[int, set[str]] = {}
    for one in shown():
        files.setdefault(one.row, set()).add(one.file)
    return [
        (
            str(row),
            texts[row],
            f"*Not tried.* {out[row]}"
            if row in out
            else ", ".join(f"``{file}``" for file in sorted(files[row])),
        )
        for row in GROUPS[group]
    ]


class FaultsTable(SphinxDirective):
    """``.. faults-table:: D``"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        head = ("Row", "What must hold", "Shown in ``tests/``")
        return self.parse_text_to_nodes(list_table(head, fault_rows(self.arguments[0]), (6, 60, 34)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("faults-table", FaultsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
