"""What the store does with a job's record, each as a script, so that it happens whole or not at all.

Lua, as Redis 6.2 and later and Valkey have it; one file a script, each behind `head.lua`. They make their
keys from the prefix and the ids that they are given, so Redis Cluster, which wants to know all keys
beforehand, is not supported. What the replies mean is `server.downloads.records`' to know.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def sources() -> dict[str, str]:
    """Every script, whole, by its name."""
    head = (_FOLDER / "head.lua").read_text("utf-8")
    files = sorted(_FOLDER.glob("*.lua"))
    return {file.stem: head + file.read_text("utf-8") for file in files if file.stem != "head"}
