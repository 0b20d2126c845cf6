"""The documentation says what is true: its examples are run, and its lists are held against the code."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from aiohttp import web
from docutils.core import publish_doctree

from server.access_log import AccessLog
from server.asking import Asking
from server.events.routes import add_event_routes
from server.params import timeout_schema
from server.routes import UpstreamEntry, load_table
from server.settings import NAMES_IN_ROUTES, SettingsSchema, known_names
from strategies import NoOptions, Strategy, build_options
from strategies.registry import BUILT_IN
from strategies.testing import check_strategy
from upstream.breaker import MOVES, BreakerOptions, State

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts)
WITH_EXAMPLES = [page for page in PAGES if ">>>" in page.read_text("utf-8")]


def name_of(path: Path) -> str:
    """A page as pytest shows it."""
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[tuple[str | None, str]]:
    """The caption (if any) and the text of each code block in *language*."""
    found: list[tuple[str | None, str]] = []
    lines = iter([*text.splitlines(), "."])
    line = next(lines)
    while True:
        if line.strip() != f".. code-block:: {language}":
            try:
                line = next(lines)
            except StopIteration:
                return found
            continue
        indent = len(line) - len(line.lstrip())
        body = []
        for line in lines:
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                break
            body.append(line)
        caption = next((row.split(":caption:")[1].strip() for row in body if ":caption:" in row), None)
        code = [row[indent + 3 :] for row in body if not re.match(r"\s*:\w+:", row)]
        found.append((caption, "\n".join(code).strip() + "\n"))


def names_in_env_example() -> set[str]:
    """Every variable in the example, commented out or not."""
    return set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text("utf-8"), re.M))


def tables() -> Any:
    """The module that writes the tables of the reference."""
    spec = importlib.util.spec_from_file_location("tables", DOCS / "_ext" / "reference_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figure(name: str) -> Any:
    """The script that draws a picture."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "figures" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules can be imported from, and are forgotten from afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("policies", "readme_example"):
            del sys.modules[name]


def write(folder: Path, name: str, code: str) -> Path:
    """The file *name* under *folder*."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, "utf-8")
    return path


def test_every_setting_is_in_the_example_file() -> None:
    """Whoever copies .env.example sees all there is."""
    names = {str(field.data_key) for field in SettingsSchema().fields.values()} | set(NAMES_IN_ROUTES)
    assert names <= names_in_env_example()


def test_every_name_in_the_example_file_is_known() -> None:
    """A copy of .env.example with every line in force starts the server."""
    assert names_in_env_example() <= known_names()


def test_the_example_file_gives_the_defaults() -> None:
    """What stands behind a name in .env.example is what holds without it."""
    text = (ROOT / ".env.example").read_text("utf-8")
    for field in SettingsSchema().fields.values():
        given = re.search(rf"^# {field.data_key}=(.*)$", text, re.M)
        assert given is not None
        if given[1]:
            assert field.deserialize(given[1]) == field.load_default, field.data_key


def test_every_variable_in_the_prose_is_known() -> None:
    """No page tells of a setting that there is not."""
    mentioned = {
        name
        for page in [*PAGES, ROOT / "README.rst"]
        for name in re.findall(r"``([A-Z]+(?:_[A-Z]+)+)``", page.read_text("utf-8"))
    }
    assert mentioned <= known_names()


def test_the_tables_of_the_reference_have_it_all() -> None:
    """Each setting, metric and option is in a table, with its meaning."""
    written = tables()
    assert [row[0].strip("`") for row in written.setting_rows()] == [
        *(field.data_key for field in SettingsSchema().fields.values()),
        *NAMES_IN_ROUTES,
    ]
    rows = written.setting_rows() + written.metric_rows()
    for strategy in BUILT_IN.values():
        rows += written.option_rows(strategy.Options)
    assert all(cell for row in rows for cell in row)


def test_every_option_of_a_strategy_is_on_its_page() -> None:
    """A strategy with options has their table."""
    for name, strategy in BUILT_IN.items():
        page = (DOCS / "reference" / "strategies" / f"{name}.rst").read_text("utf-8")
        told = re.findall(r"options-table:: ([\w.]+):(\w+)", page)
        options = strategy.Options
        assert told == ([] if options is NoOptions else [(options.__module__, options.__name__)]), name


def test_every_strategy_has_a_page() -> None:
    """A built-in strategy without a page in the reference is not finished."""
    pages = {page.stem for page in (DOCS / "reference" / "strategies").glob("*.rst")} - {"index"}
    assert pages == set(BUILT_IN)


def test_every_route_is_in_the_reference() -> None:
    """Each path of the shipped route table is told about."""
    page = (DOCS / "reference" / "routes.rst").read_text("utf-8")
    table = tomllib.loads((ROOT / "server" / "routes.toml").read_text("utf-8"))
    assert [route["path"] for route in table["route"] if f"GET {route['path']}\n" not in page] == []


def test_every_metric_in_the_prose_exists() -> None:
    """A query that someone copies from a page finds something."""
    ends = ("", "_total", "_bucket", "_count", "_sum")
    known = {f"{metric.name}{end}" for metric in tables().all_metrics() for end in ends}
    for page in [*PAGES, ROOT / "README.rst"]:
        named = set(re.findall(r"\bhedgerow_[a-z_]*[a-z]\b", page.read_text("utf-8")))
        assert named <= known, name_of(page)


def test_every_field_of_the_access_line_is_in_the_reference() -> None:
    """What the log has beside time, level and message is explained."""
    source = Path(sys.modules[AccessLog.__module__].__file__ or "").read_text("utf-8")
    fields = set(re.findall(r'"(\w+)":', source)) | set(re.findall(r'line\["(\w+)"\]', source))
    page = (DOCS / "reference" / "logs.rst").read_text("utf-8")
    assert {name for name in fields - {"all", "errors", "off"} if f"``{name}``" not in page} == set()


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples_give_what_they_say(page: Path) -> None:
    """Every ``>>>`` in the documentation is run, and its output compared."""
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_and_toml_in_the_pages_are_well_formed(page: Path) -> None:
    """An example that somebody copies can be read by a machine."""
    text = page.read_text("utf-8")
    for _, block in blocks(text, "json"):
        for document in [block] if block.startswith("{\n") else block.splitlines():
            json.loads(document)
    for _, block in blocks(text, "toml"):
        tomllib.loads(block)


def test_the_strategy_of_the_how_to_works(elsewhere: Path) -> None:
    """The files of how-to/add-a-strategy are written, loaded by a route table, and their tests pass."""
    page = (DOCS / "how-to" / "add-a-strategy.rst").read_text("utf-8")
    files = {caption: code for caption, code in blocks(page, "python") if caption}
    write(elsewhere, "policies/quorum.py", files["policies/quorum.py"])
    write(elsewhere, "policies/quorum_tests.py", files["tests/test_quorum.py"])

    tests = importlib.import_module("policies.quorum_tests")
    ran = [getattr(tests, name)() for name in vars(tests) if name.startswith("test_")]
    assert len(ran) == 3

    route = next(block for _, block in blocks(page, "toml") if "[[route]]" in block)
    upstream = '[upstream.work]\nurl = "http://127.0.0.1:9/"\n'
    table = load_table(upstream + route, {})
    assert table.routes[0].strategy is importlib.import_module("policies.quorum").QuorumStrategy
    assert table.routes[0].options.need == 2


def test_the_strategy_of_the_how_to_refuses_bad_options(elsewhere: Path) -> None:
    """Its range is checked, and the message names the option."""
    page = (DOCS / "how-to" / "add-a-strategy.rst").read_text("utf-8")
    files = {caption: code for caption, code in blocks(page, "python") if caption}
    write(elsewhere, "policies/quorum.py", files["policies/quorum.py"])
    strategy = importlib.import_module("policies.quorum").QuorumStrategy
    with pytest.raises(ValueError, match="need must be 1 or more, not 0"):
        build_options(strategy, {"need": 0})


def test_the_payload_rule_of_the_how_to_works(elsewhere: Path) -> None:
    """The function in how-to/configure-an-upstream passes what it should, and complains about the rest."""
    page = (DOCS / "how-to" / "configure-an-upstream.rst").read_text("utf-8")
    (_, code), *_ = blocks(page, "python")
    write(elsewhere, "policies/rules.py", code)
    has_results = importlib.import_module("policies.rules").has_results
    assert has_results(b'{"results": []}') is None
    assert has_results(b"[]") == "the body has no list under 'results'"
    assert has_results(b"{") == "the body is not JSON"


def test_the_strategy_of_the_readme_keeps_the_laws(elsewhere: Path) -> None:
    """The ten lines on the front page are a whole strategy."""
    (_, code), *_ = blocks((ROOT / "README.rst").read_text("utf-8"), "python")
    write(elsewhere, "readme_example.py", code)
    module: ModuleType = importlib.import_module("readme_example")
    strategy: type[Strategy[Any]] = module.QuorumStrategy
    check_strategy(lambda fetch, reaper: strategy(fetch, reaper, NoOptions()), targets=3)


@pytest.mark.parametrize("name", ["README.rst", "CHANGELOG.rst"])
def test_the_front_pages_show_on_a_code_host(name: str) -> None:
    """They are plain reStructuredText, with no word of Sphinx's, and whatever they link to is there."""
    text = (ROOT / name).read_text("utf-8")
    publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})
    links = re.findall(r"`[^`<]+<([^>:]+)>`_|image:: (\S+)", text)
    assert [link for pair in links for link in pair if link and not (ROOT / link).exists()] == []


PICTURES = sorted((DOCS / "_static").glob("*.svg"))


@pytest.mark.parametrize("picture", PICTURES, ids=name_of)
def test_the_pictures_are_well_formed_and_tell_themselves(picture: Path) -> None:
    """A drawing is an SVG with a title and a description for those who cannot see it."""
    root = ElementTree.parse(picture).getroot()  # noqa: S314 - our own file
    assert [root.find(f"{{http://www.w3.org/2000/svg}}{tag}") is not None for tag in ("title", "desc")] == [
        True,
        True,
    ]


def test_the_states_of_the_breaker_are_drawn_from_its_table() -> None:
    """The picture shows each state and each move, and is what its script would draw now."""
    drawn = figure("breaker_states").draw()
    assert (DOCS / "_static" / "breaker-states.svg").read_text("utf-8") == drawn
    assert drawn.count('class="move"') == len(MOVES)
    assert drawn.count('class="name"') == len(State)


def test_the_outage_in_the_page_of_the_breaker_is_what_the_breaker_does() -> None:
    """The figures beside the plot are those of a fresh simulation, on virtual time."""
    script = figure("breaker_over_time")
    page = (DOCS / "explanation" / "circuit-breaker.rst").read_text("utf-8")
    told = [line.strip() for line in script.told(script.simulate()).splitlines()]
    (block,) = [code for _, code in blocks(page, "console") if "breaker_over_time" in code]
    assert [line.strip() for line in block.splitlines()[1:]] == told


def test_every_option_and_variable_of_the_breaker_is_told() -> None:
    """Whoever protects an upstream finds all that can be set."""
    page = (DOCS / "how-to" / "protect-an-upstream.rst").read_text("utf-8")
    assert [one.name for one in fields(BreakerOptions) if f"``{one.name}``" not in page] == []
    page = (DOCS / "explanation" / "circuit-breaker.rst").read_text("utf-8")
    variables = {name for name in known_names() if name.startswith("CIRCUIT_BREAKER_")}
    assert {name for name in variables if f"``{name}``" not in page} == set()


def test_every_key_of_an_upstream_is_in_the_how_to() -> None:
    """What a paragraph of the route table may say is listed, with its default."""
    page = (DOCS / "how-to" / "configure-an-upstream.rst").read_text("utf-8")
    keys = {one.name for one in fields(UpstreamEntry)} - {"name", "variable"}
    assert {key for key in keys if f"   * - ``{key}``" not in page} == set()


def test_every_route_of_the_event_api_is_in_the_reference() -> None:
    """Each path has its heading."""
    app = web.Application()
    add_event_routes(app, {}, cast(Asking, None), timeout_schema(30.0))
    page = (DOCS / "reference" / "events.rst").read_text("utf-8")
    served = {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.resource}
    assert {one for one in served if not one.startswith("HEAD") and f"\n{one}\n" not in page} == set()
