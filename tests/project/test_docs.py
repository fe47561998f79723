"""The documentation: every program in it runs, it builds without a warning, and it needs no network."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import itertools
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import valkka_async as va
from support.footage import FootageUnavailable, encode, vtest
from support.require import missing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# In the text; here a file is played in their place.
CAMERA = "rtsp://user:password@192.168.0.10/stream"
VIDEO = "video.mp4"

# A comment before a block says what it needs beyond its own lines: "% fragment: cam1 cam1.mp4". Without one
# the block is a whole program.
BLOCK = re.compile(
    r"(?:^% fragment:?(?P<given>[^\n]*)\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```", re.M | re.S
)
OUTPUT = re.compile(r"\n+```text\n(.*?)```", re.S)


class Enough(Exception):
    """A program that would go on for ever has shown what it can do."""


class Block:
    def __init__(self, page: Path, text: str, match: re.Match[str]) -> None:
        self.code = match["code"]
        self.given = None if match["given"] is None else match["given"].split()
        self.line = text.count("\n", 0, match.start("code")) + 1
        self.name = f"{page.name}:{self.line}"
        prints = "print(" in self.code and OUTPUT.match(text, match.end())
        self.output = prints[1] if prints else None


def blocks() -> list[Block]:
    return [
        Block(page, text, match)
        for page in sorted(DOCS.glob("*.md"))
        for text in [page.read_text()]
        for match in BLOCK.finditer(text)
        if match["language"] == "python"
    ]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "clip.h264"
    encode(path, size=(320, 180), gop=10)
    return path


@contextlib.contextmanager
def published(name: str) -> Iterator[None]:
    """A server that publishes 50 frames per second, from a thread."""
    stop = threading.Event()
    with va.serve(name) as server:

        def run() -> None:
            n = 0
            while not stop.wait(0.02):
                n += 1
                server.publish(np.full((270, 480, 3), n % 256, np.uint8), meta={"boxes": [[n, n, 20, 20]]})

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def given(name: str, clip: Path) -> contextlib.AbstractContextManager[Any]:
    """What a fragment asks for: a ring of pictures, or of fragments, under that name."""
    if name.endswith(".mp4"):
        return va.Camera("clip", clip, [va.Output(name, "fmp4")])
    return published(name)


def tools() -> dict[str, Callable[..., Any]]:
    """What stands for the reader's own code in fragments."""
    calls = iter(range(3))

    def detect(*images: Any) -> list[list[int]]:
        """Sees nothing, three times; then the program has shown enough."""
        for image in images:
            assert np.asarray(image).size
        if next(calls, None) is None:
            raise Enough
        return []

    def send(data: Any) -> None:
        assert len(data)
        detect()

    return {"detect": detect, "send": send}


def run(block: Block, clip: Path) -> str:
    """Execute it, as a program or within its surroundings; what it prints."""
    names: dict[str, Any] = {"__name__": "__main__"}
    if block.given is not None:
        exec("import asyncio, time\nimport numpy as np\nimport valkka_async as va", names)
        names |= tools()
    code = "\n" * (block.line - 1) + block.code.replace(CAMERA, str(clip)).replace(VIDEO, str(clip))
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        for name in block.given or ():
            stack.enter_context(given(name, clip))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.suppress(Enough))
        program = compile(code, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if program.co_flags & inspect.CO_COROUTINE:

            async def main() -> None:
                await eval(program, names)

            import asyncio

            asyncio.run(main())
        else:
            exec(program, names)
    return printed.getvalue()


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_a_program_of_the_documentation_runs(
    block: Block, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run(block, clip)
    if block.output is not None:
        assert printed == block.output


def test_code_is_not_wider_than_the_page() -> None:
    """What programs say may be: such blocks are wrapped."""
    wide = [
        f"{page.name}: {line}"
        for page in DOCS.glob("*.md")
        for match in BLOCK.finditer(page.read_text())
        for line in match["code"].splitlines()
        if len(line) > 85 and match["language"] != "text"
    ]
    assert wide == []


def fetched() -> Path | None:
    """Footage that people walk in, if it can be had."""
    with contextlib.suppress(FootageUnavailable):
        return vtest(ROOT / ".cache")
    return None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` does after `make test`."""
    fetched()
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-E", str(DOCS), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


@pytest.mark.timeout(600)  # it is built meanwhile
def test_it_builds_without_a_warning(site: Path) -> None:
    for page in (*DOCS.glob("*.md"), *DOCS.glob("*.rst")):
        assert (site / f"{page.stem}.html").is_file()


def test_the_make_target_builds_it_in_the_same_way() -> None:
    rule = re.search(r"\ndocs: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    assert rule is not None
    assert "-m sphinx -W --keep-going -n -q -E docs build/docs" in rule[1]


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    reference = (site / "api.html").read_text()
    missing = [name for name in va.__all__ if f'id="valkka_async.{name}"' not in reference]
    assert missing == []


def test_every_public_method_of_a_frame_says_what_it_does(site: Path) -> None:
    """They are compiled: their words and their types come from two files."""
    reference = (site / "api.html").read_text()
    for name in (n for n in dir(va.Frame) if not n.startswith("_")):
        entry = re.search(rf'id="valkka_async\.Frame\.{name}">(.*?)</dt>\s*<dd>(.*?)</dd>', reference, re.S)
        assert entry is not None, name
        assert "<p>" in entry[2], name
        typed = "sig-return" in entry[1] or '<span class="p"><span class="pre">:</span>' in entry[1]
        assert typed, f"{name} has no type"


def test_every_example_is_shown(site: Path) -> None:
    page = (site / "examples.html").read_text()
    for program in (ROOT / "examples").rglob("*.py"):
        assert program.relative_to(ROOT / "examples").as_posix() in page


def frame_of(footage: Path, drawn: np.ndarray) -> np.ndarray:
    """The frame that was drawn on: the one most like it, below the dark bar at its top."""
    with av.open(str(footage)) as video:
        frames = [frame.to_ndarray(format="bgr24") for frame in itertools.islice(video.decode(video=0), 400)]
    thumbnail = drawn[48::8, ::8].astype(np.int16)
    return min(frames, key=lambda frame: int(abs(thumbnail - frame[48::8, ::8]).sum()))


def orange(image: np.ndarray) -> np.ndarray:
    """Where it has the colour of a box, which is (0, 140, 255) before a JPEG makes it paler."""
    blue, green, red = (image[..., n].astype(np.int16) for n in range(3))
    return (red > 180) & (abs(green - 140) < 50) & (blue < 90)


def test_people_have_boxes_around_them_in_the_picture_of_surveillance(site: Path) -> None:
    if not hasattr(cv2, "HOGDescriptor"):
        missing(f"OpenCV {cv2.__version__} has no HOG: pip install --group test")
    footage = fetched()
    if footage is None:
        missing("the pedestrians could not be fetched")
    page = (site / "examples.html").read_text()
    assert re.search(r'<img alt="[^"]*people[^"]*" src="_images/people\.jpg"', page)
    image = cv2.imread(str(site / "_images" / "people.jpg"))
    assert image is not None and image.shape == (576, 768, 3)
    plain = frame_of(footage, image)
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
    boxes, _ = hog.detectMultiScale(plain, winStride=(8, 8), scale=1.1)
    assert len(boxes)  # three and more, and some images later on a busy machine perhaps fewer
    boxed = 0
    for x, y, w, h in boxes:
        for drawn, there in ((orange(image), True), (orange(plain), False)):
            sides = drawn[max(y, 50) : y + h, [x, min(x + w - 1, 767)]]
            boxed += there and sides.mean() > 0.8
            assert there or sides.mean() < 0.1
    assert boxed >= min(3, len(boxes))


def test_without_footage_the_page_says_how_to_come_by_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(DOCS / "_ext")
    people = importlib.import_module("people")
    assert people.picture(tmp_path / "vtest.avi", tmp_path / "people.jpg") is None
    assert "make test docs" in people.WITHOUT
    (tmp_path / "vtest.avi").write_bytes(b"not a video")
    monkeypatch.setattr(people, "SECONDS", 1.0)
    assert people.picture(tmp_path / "vtest.avi", tmp_path / "people.jpg") is None
    assert [file.name for file in tmp_path.iterdir()] == ["vtest.avi"]


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    load = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*\"")
    for page in site.glob("*.html"):
        assert load.findall(page.read_text()) == [], page.name


def test_pictures_are_well_formed_and_their_words_stay_inside(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, DOCS / "_ext" / "pictures.py", tmp_path], timeout=150)
    assert done.returncode == 0
    pictures = sorted(tmp_path.glob("*.svg"))
    assert len(pictures) == 3
    for path in pictures:
        svg = ET.parse(path).getroot()
        assert svg.find("{*}title") is not None
        _, _, width, height = map(float, svg.attrib["viewBox"].split())
        for text in svg.iter("{http://www.w3.org/2000/svg}text"):
            x, y, half = float(text.attrib["x"]), float(text.attrib["y"]), len(text.text or "") * 7.5 / 2
            shift = half if text.attrib["text-anchor"] == "start" else 0
            assert 0 <= x + shift - half and x + shift + half <= width, text.text
            assert 0 < y < height, text.text
