# SPDX-License-Identifier: MIT
"""Recordings over HTTP: the timeline, clips with byte ranges, pictures, and what is refused."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, once, served

from support.footage import read_index
from support.playback import play
from support.recordings import Writer
from valkka_async.record import clip as clips
from valkka_async.record.archive import Archive, Kept
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep

S = 10**9
BEGIN = 1_700_000_000
TOKEN = "a-token-of-some-length"


@asynccontextmanager
async def recorded(tmp_path: Path, token: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """front: ten seconds with two events, a gap of ten, then four seconds in another size."""
    folder = tmp_path / "front"
    first = Writer(folder / "1.mp4", BEGIN * S).frames(250)
    for at in (3, 8):
        first.contents.happened((BEGIN + at) * S)
    first.complete()
    Writer(folder / "2.mp4", (BEGIN + 20) * S, width=320).frames(100).complete()
    Writer(tmp_path / "other" / "1.mp4", BEGIN * S).frames(50).complete()
    async with Archive(tmp_path / ".index") as archive:
        kept = {
            name: Kept(Pattern(f"{tmp_path}/{name}/{{n}}.mp4", name), Keep()) for name in ("front", "other")
        }
        archive.follow(kept, Keep(), lambda name: Pattern(f"{tmp_path}/{name}/{{n}}.mp4", name))
        await archive.settled()
        settings = Settings(token=None if token is None else SecretStr(token))
        async with served(Stand(archive=archive), settings) as client:
            yield client


def query(begin: float, end: float, **more: str) -> dict[str, str]:
    return {"from": str(BEGIN + begin), "to": str(BEGIN + end)} | more


@once
async def test_the_timeline_has_what_a_page_needs(tmp_path: Path) -> None:
    async with recorded(tmp_path) as client:
        async with client.get("/api/recordings/front", params=query(-100, 100)) as answer:
            got = await answer.json()
        assert answer.status == 200
        assert [(s["from_ns"] / S - BEGIN, s["to_ns"] / S - BEGIN, s["width"]) for s in got["spans"]] == [
            (0, 10, 160),
            (20, 24, 320),
        ]
        assert got["spans"][0]["codec"].startswith("avc1.")
        assert [(g["from_ns"] / S - BEGIN, g["to_ns"] / S - BEGIN) for g in got["gaps"]] == [(10, 20)]
        assert [event["at_ns"] / S - BEGIN for event in got["events"]] == [3, 8]
        assert (got["oldest_ns"], got["newest_ns"]) == (BEGIN * S, (BEGIN + 24) * S)
        iso = {"from": "2023-11-14T22:13:25Z", "to": "2023-11-14T23:13:30+01:00"}
        async with client.get("/api/recordings/front", params=iso) as answer:
            got = await answer.json()
        assert [(s["from_ns"] / S - BEGIN, s["to_ns"] / S - BEGIN) for s in got["spans"]] == [(5, 10)]
        assert [event["at_ns"] / S - BEGIN for event in got["events"]] == [8]
        async with client.get("/api/recordings/front") as answer:  # the last day: nothing
            assert (answer.status, (await answer.json())["spans"]) == (200, [])


@once
async def test_a_clip_is_a_file_of_which_any_part_can_be_asked_for(tmp_path: Path) -> None:
    async with recorded(tmp_path) as client:
        path = "/api/recordings/front/clip.mp4"
        async with client.get(path, params=query(2, 4)) as answer:
            whole = await answer.read()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "video/mp4")
        assert len(whole) == int(answer.headers["Content-Length"])
        assert [one.number for one in play(whole)] == list(range(50, 100))
        assert int(answer.headers["X-From-Ns"]) == (BEGIN + 2) * S
        assert answer.headers["Content-Disposition"].startswith('inline; filename="front-2023-11-1')
        tag = answer.headers["ETag"]
        for asked, (begin, end) in {
            "bytes=0-99": (0, 100),
            "bytes=1000-": (1000, len(whole)),
            "bytes=-10": (len(whole) - 10, len(whole)),
            "bytes=5-99999999": (5, len(whole)),
        }.items():
            headers = {"Range": asked, "If-Range": tag}
            async with client.get(path, params=query(2, 4), headers=headers) as part:
                assert (part.status, await part.read()) == (206, whole[begin:end])
                assert part.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(whole)}"
        async with client.get(path, params=query(2, 4), headers={"Range": "bytes=9999999-"}) as none:
            assert (none.status, none.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
        async with client.get(path, params=query(2, 4), headers={"Range": "bytes=-0"}) as none:
            assert none.status == 416
        async with client.head(path, params=query(2, 4), headers={"Range": "bytes=0-9"}) as head:
            assert (head.status, int(head.headers["Content-Length"])) == (200, len(whole))
        for asked in (
            "bytes=0-1,5-6",
            "bytes=9-2",
            "bytes=-",
            "bytes=a-b",
            "frames=0-9",
            "bytes=0-" + "9" * 5000,
        ):
            async with client.get(path, params=query(2, 4), headers={"Range": asked}) as all_:
                assert (all_.status in (200, 206), await all_.read()) == (True, whole), asked
        other = {"Range": "bytes=0-9", "If-Range": '"another"'}
        async with client.get(path, params=query(2, 4), headers=other) as all_:
            assert (all_.status, await all_.read()) == (200, whole)
        async with client.head(path, params=query(2, 4)) as head:
            assert (head.status, int(head.headers["Content-Length"])) == (200, len(whole))
        async with client.get(path, params=query(2, 4, download="1")) as saved:
            assert saved.headers["Content-Disposition"].startswith("attachment; ")


@once
async def test_what_cannot_be_had_is_told_by_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path) as client:

        async def told(path: str, **params: str) -> tuple[int, Any]:
            async with client.get(f"/api/recordings/{path}", params=params) as answer:
                return answer.status, await answer.json()

        clip = "front/clip.mp4"
        for path in ("front", clip):
            for wrong in ("yesterday", "nan", "inf", "1e300", "-5", "2026-13-01T00:00:00Z"):
                status, said = await told(path, **{"from": wrong, "to": "1700000000"})
                assert (status, said["code"]) == (400, "time"), wrong
            status, said = await told(path, **query(5, 5))
            assert (status, said["code"]) == (400, "time")
        assert (await told(clip))[0] == 400
        status, said = await told(clip, **query(11, 19))
        assert (status, said["code"]) == (404, "empty")
        status, said = await told(clip, **query(5, 22))
        assert (status, said["code"]) == (409, "changed")
        parts = [(one["from_ns"] / S - BEGIN, one["to_ns"] / S - BEGIN) for one in said["parts"]]
        assert parts == [(5, 10), (20, 22)]
        with monkeypatch.context() as patched:
            patched.setattr(clips, "MOST_MARKS", 0)
            status, said = await told(clip, **query(0, 5))
            assert (status, said["code"]) == (400, "long")
        for path in ("nobody", "nobody/clip.mp4"):
            status, said = await told(path, **query(0, 5))
            assert (status, said["code"]) == (404, "camera")
        for path in ("..", "%2e%2e", "..%2fother", "front/..%2f..%2fetc%2fpasswd", "front/1.mp4"):
            async with client.get(f"/api/recordings/{path}", params=query(0, 5)) as answer:
                assert answer.status == 404


@once
async def test_what_there_is_of_which_camera(tmp_path: Path) -> None:
    async with recorded(tmp_path) as client:
        async with client.get("/api/recordings") as answer:
            got = await answer.json()
        assert got["ready"] and [one["name"] for one in got["cameras"]] == ["front", "other"]
        front, other = got["cameras"]
        assert (front["configured"], other["configured"]) == (True, False)
        assert (front["oldest_ns"], front["newest_ns"], front["files"]) == (BEGIN * S, (BEGIN + 24) * S, 2)
        assert front["bytes"] == sum(path.stat().st_size for path in (tmp_path / "front").iterdir())


@once
async def test_a_picture_is_the_key_frame_at_or_before_a_time(tmp_path: Path) -> None:
    async with recorded(tmp_path) as client:
        path = "/api/recordings/front/still.jpg"

        async def picture(at: float, **more: str) -> tuple[int, tuple[int, int], float]:
            async with client.get(path, params={"at": str(BEGIN + at)} | more) as answer:
                assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
                body = await answer.read()
            with av.open(io.BytesIO(body), format="mjpeg") as film:
                image = next(film.decode(video=0)).to_ndarray(format="rgb24")
            taken = round(int(answer.headers["X-At-Ns"]) / S - BEGIN, 2)
            return read_index(image), (image.shape[1], image.shape[0]), taken

        assert await picture(0) == (0, (160, 96), 0)
        assert await picture(5.5) == (30, (160, 96), 5.2)  # key frames are 0.4 s apart, numbers go to 99
        assert await picture(22, width="64") == (50, (64, 20), 22)  # a frame of 320 x 96
        many = await asyncio.gather(*(picture(at / 10) for at in range(60)))
        assert [taken for _, _, taken in many] == [round(at // 4 * 0.4, 2) for at in range(60)]
        for params, status, code in (
            ({"at": str(BEGIN + 15)}, 404, "empty"),
            ({"at": "soon"}, 400, "time"),
            ({}, 400, "time"),
            ({"at": str(BEGIN), "width": "0"}, 400, "width"),
            ({"at": str(BEGIN), "width": "1e3"}, 400, "width"),
        ):
            async with client.get(path, params=params) as answer:
                assert (answer.status, (await answer.json())["code"]) == (status, code), params


@once
async def test_a_picture_of_what_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    async with recorded(tmp_path) as client:
        path = tmp_path / "front" / "1.mp4"
        data = bytearray(path.read_bytes())
        at = data.index(b"mdat")
        data[at + 4 : at + 400] = bytes(396)
        path.write_bytes(data)
        async with client.get("/api/recordings/front/still.jpg", params={"at": str(BEGIN)}) as answer:
            assert (answer.status, (await answer.json())["code"]) == (422, "format")


@once
async def test_recordings_need_the_token_of_all_the_rest(tmp_path: Path) -> None:
    async with recorded(tmp_path, TOKEN) as client:
        for path in ("/api/recordings", "/api/recordings/front", "/api/recordings/front/clip.mp4"):
            async with client.get(path, params=query(0, 5)) as answer:
                assert answer.status == 401
            async with client.get(
                path, params=query(0, 5), headers={"Authorization": f"Bearer {TOKEN}"}
            ) as answer:
                assert answer.status == 200


@once
async def test_a_browser_that_goes_in_the_middle_leaves_nothing_open(tmp_path: Path) -> None:
    async with recorded(tmp_path) as client:
        for _ in range(40):  # more than may be sent at once
            async with client.get("/api/recordings/front/clip.mp4", params=query(0, 10)) as answer:
                assert answer.status == 200
                await answer.content.read(10)
                answer.close()
