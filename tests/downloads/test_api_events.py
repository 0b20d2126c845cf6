"""Following a job over server-sent events, through the whole application."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.downloads.feed import place
from tests.downloads.conftest import Start
from tests.downloads.whole import BASE, Files, Site, Told, whole


async def test_a_stream_tells_every_change_and_ends_with_the_job(site: Site) -> None:
    job_id = await site.job(70000, 70001)
    async with site.session.get(f"{site.url}{BASE}/subscribe/{job_id}") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        await response.read()
    events = await site.history(job_id)
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["queued", "running"]
    assert kinds[-1] == "completed"
    assert set(kinds[2:-1]) == {"progress", "file"}
    assert sorted(
        (e.data["file"]["fileId"], e.data["file"]["status"]) for e in events if e.kind == "file"
    ) == [
        (70000, "completed"),
        (70001, "failed"),
    ]
    assert {event.data["jobId"] for event in events} == {job_id}
    progress = [event.data["progress"] for event in events]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0, 100)
    places = [place(event.id) for event in events]
    assert places == sorted(set(places))


async def test_what_an_event_says_the_status_says_by_the_same_names(site: Site) -> None:
    job_id = await site.completed(70000)
    *_, file, end = await site.history(job_id)
    status = await site.status(job_id)
    assert end.data.pop("at") == status["endedAt"]
    assert end.data == {name: status[name] for name in end.data}
    [known] = status["files"]
    assert file.data["file"] == {name: known[name] for name in file.data["file"]}
    assert {"status", "totalFileIds"} < end.data.keys()


async def test_a_change_is_told_while_the_job_runs(slow: Site, files: Files) -> None:
    job_id = await slow.job()
    async with slow.follow(job_id) as events:
        kinds = [(await anext(events)).kind for _ in range(2)]
        assert kinds == ["queued", "running"]
        files.open.set()
        rest = [event.kind async for event in events]
    assert rest[-2:] == ["file", "completed"]


async def test_every_event_is_a_place_to_go_on_from_without_loss(site: Site) -> None:
    job_id = await site.completed(70000)
    events = await site.history(job_id)
    for number, event in enumerate(events[:-1], 1):
        async with site.follow(job_id, after=event.id) as rest:
            assert [one async for one in rest] == events[number:]


async def test_who_knows_the_end_is_told_that_there_is_nothing_more(site: Site) -> None:
    job_id = await site.completed(70000)
    last = (await site.status(job_id))["lastEventId"]
    answer = await site.get(f"{BASE}/subscribe/{job_id}", Last_Event_ID=last)
    assert (answer.status, answer.body) == (204, b"")
    assert (await site.get(f"{BASE}/subscribe/{job_id}?lastEventId={last}")).status == 204


async def test_who_comes_from_events_that_nobody_knows_gets_the_whole_status(site: Site) -> None:
    job_id = await site.completed(70000)
    async with site.follow(job_id, after="1-1") as events:
        [event] = [one async for one in events]
    assert event.kind == "resync"
    assert event.data == await site.status(job_id)
    assert event.id == event.data["lastEventId"]


async def test_a_stream_goes_on_at_the_next_server_where_it_was_cut(
    files: Files, job_store: str, tmp_path: Path
) -> None:
    files.hold()
    given = {"REDIS_URL": job_store, "DATA_DIR": str(tmp_path), "DOWNLOAD_SOURCE_URL": files.url}
    seen: list[Told] = []
    async with whole(**given) as first:
        job_id = await first.job()
        async with first.follow(job_id) as events:
            seen += [await anext(events), await anext(events)]
    files.open.set()
    async with whole(**given) as second:
        async with second.follow(job_id, after=seen[-1].id) as events:
            seen += [event async for event in events]
        assert await second.history(job_id) == seen
    assert [event.kind for event in seen].count("completed") == 1


async def test_a_stream_of_one_server_tells_what_another_one_does(files: Files, start: Start) -> None:
    files.hold()
    here = await start(DOWNLOAD_SOURCE_URL=files.url, DOWNLOAD_WORKERS="off")
    there = await start(DOWNLOAD_SOURCE_URL=files.url)
    job_id = await here.job()
    async with here.follow(job_id) as events:
        assert (await anext(events)).kind == "queued"
        assert (await anext(events)).kind == "running"
        await there.cancel(job_id)
        assert [event.kind async for event in events][-1] == "cancelled"


async def test_fifty_who_follow_a_job_all_get_the_same(slow: Site, files: Files) -> None:
    job_id = await slow.job()
    following = [asyncio.create_task(slow.history(job_id)) for _ in range(50)]
    await files.asked.wait()
    files.open.set()
    histories = await asyncio.gather(*following)
    assert all(history == histories[0] for history in histories)
    assert histories[0][-1].kind == "completed"


async def test_a_client_has_so_many_streams_and_no_more(files: Files, start: Start) -> None:
    files.hold()
    site = await start(DOWNLOAD_SOURCE_URL=files.url, SSE_STREAMS_PER_CLIENT="1")
    job_id = await site.job()
    async with site.follow(job_id) as events:
        await anext(events)
        answer = await site.get(f"{BASE}/subscribe/{job_id}")
        assert (answer.status, answer.told["code"]) == (429, "too_many_streams")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_a_process_has_so_many_streams_of_all_clients_and_no_more(files: Files, start: Start) -> None:
    files.hold()
    site = await start(DOWNLOAD_SOURCE_URL=files.url, SSE_STREAMS="1", TRUSTED_PROXIES="127.0.0.1")
    job_id = await site.job()
    async with site.follow(job_id) as events:
        await anext(events)
        answer = await site.get(f"{BASE}/subscribe/{job_id}", X_Forwarded_For="203.0.113.7")
        assert (answer.status, answer.told["code"]) == (503, "too_many_streams")
        assert int(answer.headers["Retry-After"]) >= 1
