"""The small tools of the stores: parts of one size, and clean-up that ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.downloads.parts import parts
from server.downloads.tidying import Tidying
from strategies.virtual_time import run_virtual
from tests.downloads.places import chunked


@given(st.lists(st.binary(max_size=40)), st.integers(1, 17))
def test_parts_are_the_same_bytes_in_pieces_of_one_size(chunks: list[bytes], size: int) -> None:
    async def made() -> list[bytes]:
        return [part async for part in parts(chunked(*chunks), size)]

    found = asyncio.run(made())
    assert b"".join(found) == b"".join(chunks)
    assert all(len(part) == size for part in found[:-1])
    assert all(0 < len(part) <= size for part in found)


def test_clean_up_ends_though_who_began_it_is_cancelled() -> None:
    async def story() -> None:
        tidying, done = Tidying(), []

        async def clean() -> None:
            await asyncio.sleep(5)
            done.append("clean")

        asker = asyncio.create_task(tidying.finish(clean()))
        await asyncio.sleep(1)
        asker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asker
        assert done == []
        await tidying.aclose(within=10)
        assert done == ["clean"]
        assert asyncio.get_running_loop().time() == pytest.approx(5)

    run_virtual(story())


def test_clean_up_that_does_not_end_is_cancelled_at_the_close() -> None:
    async def story() -> None:
        tidying = Tidying()
        task = tidying.start(asyncio.Event().wait())
        await tidying.aclose(within=10)
        assert task.cancelled()
        assert asyncio.get_running_loop().time() == pytest.approx(10)

    run_virtual(story())


def test_closing_with_nothing_to_do_takes_no_time() -> None:
    async def story() -> None:
        await Tidying().aclose(within=10)
        assert asyncio.get_running_loop().time() == 0

    run_virtual(story())
