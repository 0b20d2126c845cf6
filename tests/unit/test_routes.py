"""The route table is data, and tells all that is wrong with it at once, in its own words."""

from __future__ import annotations

import pytest

from server.app import ROUTES
from server.routes import load_table
from server.settings import ConfigError
from strategies import AdaptiveOptions, AdaptiveStrategy, HedgedOptions, HedgedStrategy

GOOD = """
[upstream.work]
url = "http://127.0.0.1:1/work"
[[route]]
name = "one"
path = "/one"
strategy = "first"
upstream = "work"
"""


def problems_of(text: str) -> list[str]:
    """What `load_table` complains about."""
    with pytest.raises(ConfigError) as caught:
        load_table(text, {})
    return caught.value.problems


def test_the_shipped_table() -> None:
    """Five routes over one upstream, which the simulator plays while its variable is not set."""
    table = load_table(ROUTES.read_text("utf-8"), {})
    assert [route.path for route in table.routes] == [
        "/api/all",
        "/api/first",
        "/api/within-timeout",
        "/api/smart",
        "/api/adaptive",
    ]
    assert [(one.name, one.url, one.variable) for one in table.upstreams] == [
        ("work", None, "WORK_API_URL"),
        ("events", None, "EVENT_API_BASE_URL"),
        ("files", None, "DOWNLOAD_SOURCE_URL"),
    ]
    assert [one.statuses for one in table.upstreams] == [{200}, {200}, {200, 206}]
    smart = table.routes[3]
    assert (smart.strategy, smart.options) == (HedgedStrategy, HedgedOptions(delay=0.3))
    assert len(smart.targets) == 3
    adaptive = table.routes[4]
    assert (adaptive.strategy, adaptive.options) == (AdaptiveStrategy, AdaptiveOptions())
    assert (len(adaptive.targets), adaptive.render, adaptive.on_failure) == (3, smart.render, 503)


def test_a_url_from_the_environment() -> None:
    """``$NAME`` is looked up."""
    table = load_table(ROUTES.read_text("utf-8"), {"WORK_API_URL": "https://upstream.example/work"})
    assert table.upstreams[0].url == "https://upstream.example/work"


def test_attempts_go_round_the_upstreams() -> None:
    """Three attempts over two upstreams ask the first one twice."""
    text = GOOD.replace('upstream = "work"', 'upstream = ["work", "more"]\nattempts = 3')
    table = load_table(text + '[upstream.more]\nurl = "http://127.0.0.1:2"\n', {})
    assert [target.upstream for target in table.routes[0].targets] == ["work", "more", "work"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('"first"', '"fisrt"'), "route one: strategy 'fisrt' is unknown; did you mean 'first'?"),
        (('upstream = "work"', 'upstream = "wrok"'), "route one: upstream 'wrok' is not defined"),
        (('upstream = "work"', "upstream = 5"), "route one: upstream must be a name or a list of names"),
        (('path = "/one"', 'path = "one"'), "routes.route.0.path: Must begin with '/', without '{}?#'."),
        (('path = "/one"', 'path = "/one"\nattempts = 0'), "routes.route.0.attempts: Must be greater"),
        (
            ('path = "/one"', 'path = "/one"\nrender = "x"'),
            "route one: render 'x' is unknown; there is list,",
        ),
        (
            ('path = "/one"', 'path = "/one"\noptions = {a = 1}'),
            "route one: unknown option 'a'; there is none",
        ),
        (('path = "/one"', 'path = "/one"\non_failure = 200'), "routes.route.0.on_failure: Must be one of"),
        (('path = "/one"', 'path = "/one"\nretries = 3'), "routes.route.0.retries: Unknown field."),
        (('name = "one"', 'name = "One!"'), "routes.route.0.name: Must be lower-case letters"),
        (("http://127", "ftp://127"), "upstream work: url: Must be http:// or https://, a host, and"),
        (('"http://127.0.0.1:1/work"', '"http://"'), "upstream work: url: Must be"),
        (('"http://127.0.0.1:1/work"', '"$NOWHERE"'), "upstream work: NOWHERE is not set, and there is no"),
        (("[[route]]", 'accept = "xml"\n[[route]]'), "upstream work: payload rule 'xml' is unknown"),
        (("[[route]]", "timeout = -1\n[[route]]"), "routes.upstream.work.value.timeout: Must be greater"),
        (("[[route]]", "breaker = 3\n[[route]]"), "upstream work: breaker must be true, false or a table"),
        (("[[route]]", "breaker = {ratio = 2.0}\n[[route]]"), "upstream work: ratio must be from 0 to 1"),
        (
            ("[[route]]", 'breaker = true\noperations = ["a"]\n[[route]]'),
            "upstream work: operations must include default",
        ),
        (
            ("[[route]]", '[upstream.files]\nurl = "http://x"\nbreaker = true\n[[route]]'),
            "upstream files: operations must include file",
        ),
        (("[[route]]", "statuses = []\n[[route]]"), "routes.upstream.work.value.statuses: Shorter than"),
        (("[[route]]", "statuses = [404]\n[[route]]"), "routes.upstream.work.value.statuses.0: Must be"),
        (("[[route]]", "[[route"), "routes: "),
    ],
)
@pytest.mark.fault(26, 27)
def test_what_is_wrong_is_named(change: tuple[str, str], complaint: str) -> None:
    """Where, what, and what would be right."""
    [problem] = problems_of(GOOD.replace(*change))
    assert problem.startswith(complaint)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:abc",
        "http://h:0",
        "http://h:70000",
        "http://h:99999/x",
        "http://h:1_0",
        "http://:80",
        "http://u:p@",
        "http://[::1",
        "http://[::1]x",
        "http://[h]",
        "http://xn--",
        "http://h\\x",
        "http://h/ x",
        "http://h/\x07",
        "http://h\n",
        " http://h",
        "h:80",
    ],
)
def test_a_variable_that_is_no_url_is_named_and_repeated(url: str) -> None:
    """Whatever the library that reads it would say; not what may be a password."""
    with pytest.raises(ConfigError) as caught:
        load_table(ROUTES.read_text("utf-8"), {"WORK_API_URL": url, "DOWNLOAD_SOURCE_URL": url})
    said = "" if "@" in url else f" It is {url!r}."
    assert caught.value.problems == [
        f"{name}: Must be http:// or https://, a host, and perhaps a port (1 to 65535), a path and a query, "
        f"without blanks.{said}"
        for name in ("WORK_API_URL", "DOWNLOAD_SOURCE_URL")
    ]


@pytest.mark.parametrize(
    "url",
    ["http://h", "https://h:65535/", "http://[::1]:80/x", "http://u:p@h/x", "http://h?a=b", "http://h_1/%20"],
)
def test_a_variable_that_is_a_url_is_taken_as_it_is(url: str) -> None:
    """With a user, a path and a query."""
    assert load_table(ROUTES.read_text("utf-8"), {"WORK_API_URL": url}).upstreams[0].url == url


def test_all_problems_at_once() -> None:
    """Nobody has to start the server five times."""
    text = GOOD.replace('"first"', '"nope"').replace("http://", "gopher://")
    assert len(problems_of(text)) == 2


@pytest.mark.fault(27)
def test_two_routes_may_not_share_a_name_or_a_path() -> None:
    """Both are named."""
    second = GOOD[GOOD.index("[[route]]") :]
    assert problems_of(GOOD + second) == [
        "routes: name 'one' is used twice",
        "routes: path '/one' is used twice",
    ]
