# SPDX-License-Identifier: MIT
"""A web service of your own, with FastAPI and two workers: newest pictures as JPEG, and counts.

    http://127.0.0.1:8000/        what each camera gave to the worker that answers
    http://127.0.0.1:8000/web1    the newest picture of the ring web1.jpg; 504 if none comes for 5 s

Cameras run once, in the first process; each worker has its own readers, closed when it is told to stop.
What libValkka's version could not do: feed two workers from one camera, or wait in an event loop.

    .venv/bin/pip install fastapi uvicorn; PORT=8000 .venv/bin/python examples/web_service.py [URL ...]

Goes with web_service_live.py. Without cameras of its own: `uvicorn --app-dir examples web_service:app`."""

import asyncio
import contextlib
import os
import sys

import uvicorn
from fastapi import FastAPI, HTTPException, Response

import valkka_async as va


async def count(cameras: va.Merge) -> None:
    async for frame in cameras:  # a camera that nobody reads is not decoded, so a picture is at hand
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
async def picture(name: str) -> Response:
    try:  # a reader for each request: it leaves in every case, also when the request is cancelled
        async with asyncio.timeout(5), va.connect(f"{name}.jpg") as camera:
            return Response(bytes((await camera.recv()).data), media_type="image/jpeg")
    except (TimeoutError, va.ConnectionClosed, va.InvalidNameError) as error:
        raise HTTPException(504, f"no picture of this name: {error}") from None


if __name__ == "__main__":
    with contextlib.ExitStack() as cameras:
        for n, url in enumerate(sys.argv[1:] or ["lavfi:testsrc2=size=1280x720:rate=25"], 1):
            cameras.enter_context(va.Camera(f"web{n}", url, [va.Output(f"web{n}.jpg", "jpeg", fps=5)]))
        uvicorn.run("web_service:app", port=int(os.environ.get("PORT", 8000)), workers=2)
