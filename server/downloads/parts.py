"""Chunks as they come, regrouped into parts of one size, so that no more than a part is held at a time.

It knows nothing of what a part is for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable


async def parts(chunks: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """*chunks* as parts of *size* bytes; the last may be shorter. Nothing comes of nothing."""
    gathered = bytearray()
    async for chunk in chunks:
        rest = memoryview(chunk)
        while len(gathered) + len(rest) >= size:
            room = size - len(gathered)
            gathered += rest[:room]
            rest = rest[room:]
            yield _taken(gathered)
        gathered += rest
    if gathered:
        yield bytes(gathered)


def _taken(gathered: bytearray) -> bytes:
    """What was gathered. Not kept here in a name: the generator would hold it while the next is gathered."""
    part = bytes(gathered)
    gathered.clear()
    return part
