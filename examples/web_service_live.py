# SPDX-License-Identifier: MIT
"""Live video in a web page of your own: FastAPI streams a camera's JPEGs to <img>, no script needed.

Each client has a reader of its own, so a slow client gets fewer frames and delays no other. The reader is
closed when the client leaves and when the service is stopped: uvicorn would wait for endless streams for
ever. What libValkka's version could not do: serve more than one client of a camera.

    .venv/bin/pip install fastapi uvicorn
    PORT=8000 .venv/bin/python examples/web_service_live.py [URL or file]      then http://127.0.0.1:8000

See also web_service.py (workers, counts) and fmp4_web.py (video: a tenth of the bytes)."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator

import valkka_async as va

try:
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse, StreamingResponse
except ImportError as error:
    sys.exit(f"needs FastAPI and uvicorn: .venv/bin/pip install fastapi uvicorn ({error})")

app = FastAPI()
readers: set[va.Client] = set()


async def frames() -> AsyncIterator[bytes]:
    async with va.connect("live.jpg") as camera:
        readers.add(camera)
        try:
            async for frame in camera:
                yield b"--next\r\nContent-Type: image/jpeg\r\n\r\n" + bytes(frame.data) + b"\r\n"
        finally:
            readers.discard(camera)


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse('<body style="margin: 0"><img src="live" style="width: 100%"></body>')


@app.get("/live")
async def live() -> StreamingResponse:
    return StreamingResponse(frames(), media_type="multipart/x-mixed-replace; boundary=next")


class Service(uvicorn.Server):
    async def shutdown(self, sockets=None) -> None:
        for camera in list(readers):
            camera.close()  # ends the stream that waits for it
        await super().shutdown(sockets)


if __name__ == "__main__":
    url = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1280x720:rate=25"
    service = Service(uvicorn.Config(app, port=int(os.environ.get("PORT", 8000)), lifespan="off"))
    with va.Camera("live", url, [va.Output("live.jpg", "jpeg", fps=10)]):
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again at its end
            service.run()
