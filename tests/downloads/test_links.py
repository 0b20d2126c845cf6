"""Signatures and their secret, ranges, names of files: plain functions, no server."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.downloads.objects import ObjectInfo, disposition, object_key
from server.downloads.ranges import span
from server.downloads.signed_urls import Denied, Granted, UrlSigner, load_secret
from tests.downloads.places import Clock

KEY = object_key(70_000)
SECRET = b"s" * 32


def parts_of(query: str) -> tuple[str, str, str]:
    """Expiry, file name and signature."""
    found = parse_qs(query, keep_blank_values=True, strict_parsing=True)
    return found["expires"][0], found["filename"][0], found["signature"][0]


def test_a_link_is_good_until_its_last_second_and_not_longer() -> None:
    clock = Clock(1000.7)
    signer = UrlSigner(SECRET, clock)
    link = parts_of(signer.query(KEY, 60, "a.zip"))
    clock.now = 1059.9
    assert signer.read(KEY, *link) == Granted("a.zip")
    clock.now = 1060.0
    assert signer.read(KEY, *link) is Denied.EXPIRED


def test_another_process_with_the_same_secret_knows_the_link_and_one_with_another_does_not() -> None:
    link = parts_of(UrlSigner(SECRET, Clock(0)).query(KEY, 60, "a.zip"))
    assert UrlSigner(SECRET, Clock(0)).read(KEY, *link) == Granted("a.zip")
    assert UrlSigner(b"t" * 32, Clock(0)).read(KEY, *link) is Denied.FORGED


def test_nothing_that_is_signed_can_be_changed() -> None:
    signer = UrlSigner(SECRET, Clock(0))
    expires, name, signature = parts_of(signer.query(KEY, 60, "a.zip"))
    assert signer.read(object_key(70_001), expires, name, signature) is Denied.FORGED
    assert signer.read(KEY, "61", name, signature) is Denied.FORGED
    assert signer.read(KEY, "060", name, signature) is Denied.FORGED
    assert signer.read(KEY, expires, "b.zip", signature) is Denied.FORGED
    assert signer.read(KEY, expires, name, signature.upper()) is Denied.FORGED
    assert signer.read(KEY, expires, name, "") is Denied.FORGED


def test_an_expired_link_that_was_changed_is_forged() -> None:
    """Only who had a link is told that it is over."""
    assert UrlSigner(SECRET, Clock(100)).read(KEY, "1", "a.zip", "0" * 64) is Denied.FORGED


@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
def test_no_query_of_a_stranger_makes_it_fail(expires: str, name: str, signature: str) -> None:
    assert UrlSigner(SECRET, Clock(0)).read(KEY, expires, name, signature) is Denied.FORGED


@given(st.text(st.characters()))
def test_every_file_name_survives_its_link(name: str) -> None:
    signer = UrlSigner(SECRET, Clock(0))
    granted = signer.read(KEY, *parts_of(signer.query(KEY, 60, name)))
    assert granted == Granted(name.encode("utf-8", "replace").decode())


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        UrlSigner(b"short", Clock(0))


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "link-secret"
    secret = load_secret(path)
    assert len(secret) == 32
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["link-secret"]


def test_of_many_that_make_the_secret_at_once_all_get_the_same(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / str(attempt)
        with ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(load_secret, [path] * 8))) == 1
    assert len(os.listdir(tmp_path)) == 20, "nothing is left beside them"


def test_a_secret_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "link-secret"
    path.write_bytes(SECRET)
    path.chmod(0o644)
    assert load_secret(path) == SECRET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_holds_no_secret_is_named(tmp_path: Path) -> None:
    path = tmp_path / "link-secret"
    path.touch()
    with pytest.raises(ValueError, match="link-secret"):
        load_secret(path)


@given(st.binary(max_size=50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_the_slice_that_it_names(body: bytes, first: int, last: int) -> None:
    info = ObjectInfo(len(body), "e", 0)
    found = span(info, f"bytes={first}-{last}", None)
    if last < first:
        assert found is not None
        assert not found.partial
    elif first >= len(body):
        assert found is None
    else:
        assert found is not None
        assert found.partial
        assert body[found.first : found.first + found.count] == body[first : last + 1]
        assert found.content_range(len(body)) == f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"


@given(st.binary(max_size=50), st.integers(0, 60))
def test_a_suffix_is_the_end_of_the_body(body: bytes, count: int) -> None:
    found = span(ObjectInfo(len(body), "e", 0), f"bytes=-{count}", None)
    if not body or count == 0:
        assert found is None
    else:
        assert found is not None
        assert body[found.first : found.first + found.count] == body[-count:]


@given(st.text(st.characters(), max_size=40))
def test_a_range_that_is_not_understood_gives_the_whole(wanted: str) -> None:
    found = span(ObjectInfo(10, "e", 0), wanted, None)
    if not re.match(r"\s*bytes=", wanted):
        assert found is not None
        assert (found.first, found.count, found.partial) == (0, 10, False)


@given(st.text(st.characters()))
def test_every_file_name_is_a_header_of_one_line_that_browsers_understand(name: str) -> None:
    told = disposition(name)
    assert told.isascii()
    assert told.isprintable()
    message = Message()
    message["Content-Disposition"] = told
    assert message.get_content_disposition() == "attachment"
    if "filename*" in told:
        assert re.fullmatch(r"attachment; filename=\"[^\"\\]*\"; filename\*=UTF-8''[A-Za-z0-9._~%-]*", told)
    else:
        assert message.get_filename("") == name.strip(" "), "who reads it drops spaces at the ends"
