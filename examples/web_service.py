# SPDX-License-Identifier: MIT
"""A web service of your own, with FastAPI and two workers: newest frames as JPEG, and counts.

    http://127.0.0.1:8000/        how many frames of each camera the answering worker has received
    http://127.0.0.1:8000/web1    the newest frame of the ring web1.jpg; 504 if none comes for 5 s

Cameras run once, in the first process. Each worker has readers of its own, and closes them when it is
stopped. What libValkka's version could not do: feed two workers from one camera, or wait in an event loop.

    .venv/bin/pip install fastapi uvicorn; PORT=8000 .venv/bin/python examples/web_service.py [URL ...]

See also web_service_live.py. Without cameras of its own: `uvicorn --app-dir examples web_service:app`."""

import asyncio
import contextlib
import os
import sys

import valkka_async as va

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Response
except ImportError as error:
    sys.exit(f"needs FastAPI and uvicorn: .venv/bin/pip install fastapi uvicorn ({error})")


async def count(cameras: va.Merge) -> None:
    async for frame in cameras:  # with this reader cameras are decoded, so that a frame is at hand
        frame.release()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    async with va.merge("*.jpg") as app.state.cameras, asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(count(app.state.cameras))
        yield
        counting.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def counts() -> dict:
    sources = app.state.cameras.stats().sources
    return {"worker": os.getpid(), "frames": {ring: one.received for ring, one in sources.items() if one}}


@app.get("/{name}")
async def newest(name: str) -> Response:
    try:  # a reader for each request, closed in every case, also when the request is cancelled
        async with asyncio.timeout(5), va.connect(f"{name}.jpg") as camera:
            return Response(bytes((await camera.recv()).data), media_type="image/jpeg")
    except (TimeoutError, va.ConnectionClosed, va.InvalidNameError) as error:
        raise HTTPException(504, f"no frame of this name: {error}") from None


if __name__ == "__main__":
    with contextlib.ExitStack() as cameras:
        for n, url in enumerate(sys.argv[1:] or ["lavfi:testsrc2=size=1280x720:rate=25"], 1):
            cameras.enter_context(va.Camera(f"web{n}", url, [va.Output(f"web{n}.jpg", "jpeg", fps=5)]))
        uvicorn.run("web_service:app", port=int(os.environ.get("PORT", 8000)), workers=2)
