# SPDX-License-Identifier: MIT
"""A camera in the browser: fragmented MP4 (fmp4.py) over a WebSocket, shown by the page's MediaSource.

Open the page that it prints; only this machine can. A browser that falls behind jumps to the newest frame.
What libValkka's version could not do: its frag-MP4 went to one Python process, and the page was left to you.

    .venv/bin/python examples/fmp4_web.py [URL or file, of H.264; of H.265 if the browser knows it] [port]"""

import asyncio
import contextlib
import sys

from aiohttp import web
from synthetic import source

import valkka_async as va

PORT = int(sys.argv.pop()) if sys.argv[-1].isdecimal() else 8080
PAGE = """<!doctype html><title>live</title><video autoplay muted controls width=100%></video><script>
let video = document.querySelector("video"), media = new MediaSource(), parts = [], buffer, socket;
function feed() {
  const end = video.buffered.length && video.buffered.end(video.buffered.length - 1);
  if (end - video.currentTime > 1 && !(video.paused && video.currentTime)) video.currentTime = end - 0.1;
  while (parts.length && !buffer?.updating)
    if (typeof parts[0] != "string") buffer.appendBuffer(parts.shift());
    else if (buffer) buffer.changeType(parts.shift());
    else (buffer = media.addSourceBuffer(parts.shift())).onupdateend = feed;
}
const take = {binaryType: "arraybuffer", onmessage: ({data}) => { parts.push(data); feed(); }};
media.onsourceopen = () => Object.assign(socket = new WebSocket(`ws://${location.host}`), take);
onerror = (text) => { socket.onmessage = null; socket.close(); document.body.append(text); };
video.src = URL.createObjectURL(media);</script>"""


async def show(request: web.Request) -> web.StreamResponse:
    socket, init = web.WebSocketResponse(), b""
    if not socket.can_prepare(request):
        return web.Response(text=PAGE, content_type="text/html")
    if request.headers.get("Origin") != f"http://127.0.0.1:{PORT}":
        raise web.HTTPForbidden  # a page of another site, in a browser on this machine
    await socket.prepare(request)
    left = asyncio.create_task(socket.receive())  # the page sends nothing: done when it closes
    with contextlib.suppress(ConnectionError, va.ConnectionClosed):  # the viewer is gone, or the camera
        async with va.connect("fmp4_web", policy="ordered") as client:
            while not left.done():
                with await client.recv() as fragment:
                    if client.header != init:
                        init = client.header
                        await socket.send_str(f'video/mp4; codecs="{va.codec_string(init)}"')
                        await socket.send_bytes(init)
                    await socket.send_bytes(bytes(fragment.data))
    return socket


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.get("/", show)])
    with source() as url, va.Camera("fmp4_web", url, [va.Output("fmp4_web", "fmp4")]) as camera:
        app.on_shutdown.append(lambda _: camera.aclose())  # this ends the viewers' streams
        web.run_app(app, host="127.0.0.1", port=PORT, print=lambda text: print(text, flush=True))
