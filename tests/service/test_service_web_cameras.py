"""The page of a real service with a real camera, and a real browser that signs in."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import aiohttp
import av
from web_tools import Browser

from support import footage
from support.chromium import chromium
from support.playback import play
from support.program import Child
from support.rtsp import RtspServer
from support.until import until
from valkka_async.service.config.config import Config
from valkka_async.service.service import Service
from valkka_async.service.web.app import serve

TOKEN = "a-made-up-token-for-tests"


def test_what_a_real_camera_sends_is_what_browsers_get(rtsp: RtspServer, tmp_path: Path) -> None:
    clip = footage.encode(tmp_path / "clip.h264", (320, 192), 50, gop=10)
    rtsp.mount("/cam", clip, fps=25)
    cameras = {
        "front": {"url": rtsp.url("/cam"), "title": "<b>Front</b>"},
        "gone": {"url": "rtsp://me:secretpw@127.0.0.1:9/x"},
    }
    values = {"web": {"port": 0}, "recordings": str(tmp_path / "{name}.mp4"), "cameras": cameras}
    asyncio.run(watched(Config.model_validate(values)))


async def watched(config: Config) -> None:
    assert config.web
    async with Service(config) as service, serve(service, config.web) as page:
        async with aiohttp.ClientSession(page.url, timeout=aiohttp.ClientTimeout(total=30)) as client:
            await until(lambda: service.ready, 30)
            async with client.get("/readyz") as answer:
                assert answer.status == 200
            async with client.ws_connect("/api/cameras/front/live") as socket:
                browser = Browser(socket)
                text = await browser.text()
                while text["type"] == "waiting":
                    text = await browser.text()
                assert text["codec"].startswith("avc1.") and (text["width"], text["height"]) == (320, 192)
                header = (await browser.media()).payload
                frames = await browser.frames(25)
                numbers = [one.number for one in play(header + b"".join(f.payload for f in frames))]
                assert numbers == [(numbers[0] + n) % 50 for n in range(25)]
                async with client.get("/api/cameras/front/snapshot.jpg") as answer:
                    assert answer.status == 200
                    with av.open(io.BytesIO(await answer.read()), "r", "mjpeg") as file:
                        picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
                assert 0 <= footage.read_index(picture) < 50
                async with client.get("/metrics") as answer:
                    told = await answer.text()
                assert 'valkka_camera_up{camera="front"} 1.0' in told
                assert 'valkka_camera_up{camera="gone"} 0.0' in told
                assert 'valkka_page_viewers{format="fmp4"} 1.0' in told
            async with client.get("/api/status") as answer:
                whole = await answer.text()
                assert "secretpw" not in whole + told and (await answer.json())["page"]["viewers"] <= 1
            async with client.ws_connect("/api/cameras/gone/live") as socket:
                text = await Browser(socket).text()
                assert text["code"] == "camera" and "secretpw" not in text["reason"]
            path = "/api/cameras/front/recording"
            for on in (True, False):
                async with client.post(
                    path, json={"on": on}, headers={"X-Requested-With": "valkka-async"}
                ) as answer:
                    assert ((await answer.json())["recording"] is not None) == on


SERVER = """
sys.path[:0] = sys.argv[2:]
from pydantic import SecretStr
from web_tools import Settings, Stand
from valkka_async.service.web.app import serve
async def main():
    async with serve(Stand(), Settings(token=SecretStr(sys.stdin.readline().strip()))) as page:
        say(page.url)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


def test_a_browser_signs_in_and_sees_the_page(tmp_path: Path) -> None:
    here = Path(__file__).parent
    with Child(SERVER, "-", here, here.parent) as server, chromium(tmp_path) as browser:
        server.tell(TOKEN)
        url = server.line()
        with browser.page(url) as page:
            submit = "document.querySelector('form').requestSubmit()"
            for token, then in (
                ("wrong", "document.querySelector('.problem')?.textContent === 'That is not the token.'"),
                (TOKEN, "location.pathname === '/' && document.querySelector('#grid .tile') !== null"),
            ):
                page.until("location.pathname === '/login' && document.querySelector('form') !== null")
                page.value(f"document.querySelector('#token').value = '{token}'")
                page.value(submit)
                page.until(then)
            assert TOKEN not in page.value("document.cookie + document.documentElement.outerHTML")
            problems = [problem for problem in page.problems if "401" not in problem]
            assert problems == []
        server.tell("stop")
        assert server.wait() == 0
