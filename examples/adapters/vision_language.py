# SPDX-License-Identifier: MIT
"""A vision-language model looks at a camera when it is asked: FastAPI, and a server with OpenAI's interface.
It gets the newest frame of "cam1" as a data URL; its answer is a result of that frame in "cam1.text".

    curl -X POST "http://127.0.0.1:8000/ask/cam1?question=Is+the+gate+open"
    .venv/bin/pip install fastapi uvicorn aiohttp opencv-python
    MODEL_URL=http://127.0.0.1:8080 .venv/bin/python examples/adapters/vision_language.py
"""

import asyncio
import base64
import functools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import cv2
import uvicorn
from bgr import to_bgr
from fastapi import FastAPI, HTTPException

import valkka_async as va

URL = os.environ.get("MODEL_URL", "http://127.0.0.1:8080") + "/v1/chat/completions"


def data_url(frame: va.Frame) -> str:
    jpeg = frame.array if frame.format == "jpeg" else cv2.imencode(".jpg", to_bgr(frame))[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.data).decode()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as app.state.http, AsyncExitStack() as servers:
        app.state.serve = functools.cache(lambda name: servers.enter_context(va.serve(name)))
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask/{camera}")
async def ask(camera: str, question: str = "What is in the picture?") -> dict[str, object]:
    try:
        async with asyncio.timeout(5), va.connect(camera, max_leases=1) as client:
            with await client.recv() as frame:
                url = await asyncio.to_thread(data_url, frame)
    except (TimeoutError, va.ConnectError, va.InvalidNameError, ValueError) as e:
        raise HTTPException(503, f"no frame of {camera}: {e}") from None
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    chat = {"model": "default", "messages": [{"role": "user", "content": content}]}
    async with app.state.http.post(URL, json=chat) as response:
        said = (await response.json())["choices"][0]["message"]["content"]
    app.state.serve(f"{camera}.text").publish_result(frame, text=said)
    return {"answer": said, "seq": frame.seq, "age": frame.age}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", 8000)), log_level="warning")
