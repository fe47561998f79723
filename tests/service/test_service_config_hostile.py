# SPDX-License-Identifier: MIT
"""Config files that are broken, or made to break something: each gives a Config or a ConfigError with its
line. The loader raises nothing else."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from valkka_async.service.config.config import Config
from valkka_async.service.config.file import ConfigError, load

CAMERAS = "cameras: {a: {url: 'rtsp://h/x'}}\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return str(caught.value)


def bomb(first: str, item: str) -> str:
    """Each of twelve values repeats the one before it nine times."""
    lines = [f"a{i}: &a{i} {item.format(f'*a{i - 1}, ' * 9)}" for i in range(1, 12)]
    return "\n".join([f"a0: &a0 {first}", *lines])


def chain(link: str) -> str:
    """Each of a thousand values has the one before it within."""
    return "\n".join(["a0: &a0 {}", *(f"a{i}: &a{i} " + link.format(f"*a{i - 1}") for i in range(1, 1000))])


WIDE = "{" + ", ".join(f"k{i}: 1" for i in range(300)) + "}"
HUGE = "0x" + "f" * 5000  # more decimal digits than Python writes

# kind: (what is in the file, the line, what is said)
REFUSED: dict[str, list[tuple[str | bytes, int | None, str]]] = {
    "characters that escapes make up": [
        (f'\ntitle: "\\UFFFFFFFF"\n{CAMERAS}', 2, "this is no character"),
        (f'name: "\\U00110000"\n{CAMERAS}', 1, "this is no character"),
        (f'\n\n"\\U80000000": x\n{CAMERAS}', 3, "this is no character"),
    ],
    "halves of a surrogate pair": [
        (f'name: "\\uD800"\n{CAMERAS}', 1, "name: this text has U+D800, which is no character"),
        ('cameras:\n  a: {url: x, title: "\\uD83D\\uDE00"}', 2, "cameras.a.title: this text has U+D83D"),
        (f'"\\UDFFF": 1\n"\\U0000DFFF": 1\n{CAMERAS}', 1, "backslash"),
        (f'\n"\\uDFFF": 1\n{CAMERAS}', 2, "invisible character (U+DFFF)"),
    ],
    "NUL bytes": [
        ('cameras:\n  a:\n    url: "rtsp://h/\\0"', 3, "cameras.a.url: this text has U+0000"),
        (f'recordings: "~\\0/{{name}}.mp4"\n{CAMERAS}', 1, "recordings: this text has U+0000"),
        (f'\nsecrets: "a\\x00b"\n{CAMERAS}', 2, "secrets: this text has U+0000"),
        (b"cameras:\n  a: {url: x\0}", 2, "control character"),
        ("name: x\n".encode("utf-16-le"), 1, "control character"),
    ],
    "line breaks that YAML alone knows": [
        (f"# caf\xe9 \x85 {CAMERAS}nmae: x\n", 1, "invisible line break (U+0085)"),
        (f"name: x\n\n# a\u2028{CAMERAS}", 3, "invisible line break (U+2028)"),
        ("cameras:\n  a:\n    url: x\n    title: 'a\u2029b'\n", 4, "invisible line break (U+2029)"),
    ],
    "control characters in a title": [
        ('cameras:\n  a: {url: x, title: "a\\nb"}', 2, "cameras.a.title: one line of text"),
        ('cameras:\n  a: {url: x, title: "a\\u202eb"}', 2, "U+202E"),
        ('cameras:\n  a: {url: x, title: "a\\Nb"}', 2, "U+0085"),
        ('cameras:\n  a: {url: x, title: "a\\Lb"}', 2, "U+2028"),
    ],
    "characters that are not seen": [
        (f"{CAMERAS}\xa0name: x\n", 2, "invisible character (U+00A0)"),
        (f"{CAMERAS}na\u200bme: x\n", 2, "invisible character (U+200B)"),
        (f"{CAMERAS}\ufeffname: x\n", 2, "invisible character (U+FEFF)"),
    ],
    "bytes that are not UTF-8": [
        (b"cameras:\n  a: {title: \xff}\n", 2, "this is not UTF-8"),
        (b"\xef\xbb\xbfname: x\r\n\r\n# caf\xe9\r\n", 3, "this is not UTF-8"),
        (b"name: x\r# \xed\xa0\x80\r", 2, "this is not UTF-8"),
        ("name: x\n".encode("utf-16"), 1, "this is not UTF-8"),
    ],
    "tabs": [
        ("cameras:\n\ta: {url: x}", 2, "a tab"),
        ("cameras:\n  a:\n  \t  url: x", 3, "a tab"),
        ("\tcameras: {}", 1, "a tab"),
    ],
    "depth": [
        ("a: " + "[" * 100_000, None, "nested too deeply"),
        ("\na: " + "[" * 50 + "]" * 50, 2, "nested too deeply"),
        ("".join(" " * i + "a:\n" for i in range(60)), 33, "nested too deeply"),
        (chain("{{k: {}}}"), 1, "nested too deeply"),
        (chain("{{<<: {}}}"), 1, "nested too deeply"),
    ],
    "bombs": [
        (bomb("x", "[{}]"), 2, "aliases"),
        (bomb("{}", "{{<<: [{}]}}"), 3, "50000"),
        (f"a: &a {WIDE}\nb: {{<<: [{'*a, ' * 200}]}}", 2, "50000"),
        ("name: '" + "${A}" * 100_000 + f"'\n{CAMERAS}", 1, "more than 4 MB"),
    ],
    "loops": [
        ("cameras: &a {a: *a}\n", 1, "within what it stands for"),
        ("cameras: &a {<<: *a}\n", 1, "within what it stands for"),
        ("a: &a\n  - *a\n", 1, "within what it stands for"),
    ],
    "keys that are there twice": [
        ("name: x\ncameras: {a: {url: x}}\nname: y\n", 3, "first time in line 1"),
        ("cameras: {a: {url: x}, 'a': {url: y}}", 1, "cameras.a: this key is there twice"),
        ("cameras:\n  a: &b {url: x}\n  b:\n    <<: *b\n    live: no\n    live: no", 6, "cameras.b.live"),
    ],
    "keys that are no text": [
        (f"[a]: x\n{CAMERAS}", 1, "a key is text"),
        ("? {a: b}\n: x", 1, "a key is text"),
        ("cameras:\n  .nan: {url: x}", 2, "takes this for a number"),
    ],
    "numbers without end": [
        (f"web: {{port: {HUGE}}}\n{CAMERAS}", 1, "web.port: a whole number from 0 to 65535"),
        (f"web: {{port: {'9' * 4000}}}\n{CAMERAS}", 1, "web.port: a whole number from 0 to 65535"),
        (f"cameras: {{a: {{url: x, read_timeout: {HUGE}}}}}", 1, "cameras.a.read_timeout"),
        (f"cameras: {{a: {{url: x, options: {{a: {HUGE}}}}}}}", 1, "cameras.a.options"),
        (f"cameras: {{a: {{url: x, read_timeout: {'9' * 5000}}}}}", 1, "cameras.a.read_timeout"),
        (f"%YAML {'9' * 5000}\n---\n{CAMERAS}", 1, "this is not YAML"),
    ],
    "numbers that are none": [
        (f"workers: {{hang_timeout: .nan}}\n{CAMERAS}", 1, "workers.hang_timeout"),
        ("cameras: {a: {url: x, outputs: [{fps: .inf}]}}", 1, "cameras.a.outputs[0].fps"),
        ("cameras: {a: {url: x, record: {max_bytes: -.inf}}}", 1, "cameras.a.record.max_bytes"),
        ("cameras: {a: {url: x, open_timeout: 1e400}}", 1, "cameras.a.open_timeout"),
        ("defaults: {retry_max: !!float '1e999'}\n" + CAMERAS, 1, "defaults.retry_max"),
    ],
    "numbers that libraries cannot take": [
        ("cameras: {a: {url: x, read_timeout: 1.0e+300}}", 1, "at most 604800"),
        ("cameras: {a: {url: x, outputs: [{fps: 1.0e-310}]}}", 1, "a number from 0.001 to 1000"),
        ("cameras: {a: {url: x, thread_count: 1000000000000}}", 1, "a whole number from 0 to 64"),
        ("cameras: {a: {url: x, outputs: [{slots: 5000}]}}", 1, "a whole number from 2 to 1024"),
    ],
    "dates": [
        ("cameras: {a: {url: x, title: 2026-01-01}}", 1, "without quotes this is a date"),
        (f"name: 2026-13-45\n{CAMERAS}", 1, "name: YAML takes this for something that it is not"),
        (f"web: {{port: 0001-01-01 00:00:00 +99:99}}\n{CAMERAS}", 1, "web.port"),
    ],
    "values of another type": [
        ("cameras: {a: {url: x, title: !!binary aGk=}}", 1, "put it in quotes"),
        ("!!python/object/apply:os.system [x]", 1, "tags (!name) are not understood"),
        ("cameras: !!set {a}", 1, "tags (!name) are not understood"),
        (f"name: =\n{CAMERAS}", 1, "put it in quotes"),
    ],
    "paths that are programs": [
        (f"recordings: '{{name}}/{{n:99999999999}}.mp4'\n{CAMERAS}", 1, "nothing in braces but"),
        (f"recordings: '{{name}}/{{n:{{n}}}}.mp4'\n{CAMERAS}", 1, "nothing in braces but"),
        (f"recordings: '{{name.__class__}}{{name}}.mp4'\n{CAMERAS}", 1, "recordings: "),
    ],
    "texts without end": [
        (f"cameras: {{a: {{url: 'rtsp://{'@' * 100_000}h'}}}}", 1, "at most 8192 characters"),
        (f"{'a' * 100_000}: 1\n{CAMERAS}", 1, "a key is not expected here"),
        (f"cameras: {{a: {{url: x, transport: {'u' * 100_000}}}}}", 1, "tcp, udp"),
        ("#" * (1 << 20) + "\n", None, "larger than 1 MB"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.replace(" ", "-"))
def test_what_no_config_has_is_refused_with_its_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "a" * 1000)
    assert len(REFUSED[kind]) >= 3
    for text, line, words in REFUSED[kind]:
        path = write(tmp_path / "c.yaml", text)
        place = f"{path}: " if line is None else f"{path}:{line}: "
        said = refusal(path)
        assert said.startswith(place) and words in said, (text[:80], said[:300])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\ufeff\ufeff"])
def test_lines_are_counted_as_an_editor_does(end: str, mark: str, tmp_path: Path) -> None:
    text = mark + end.join(
        ("# caf\xe9", "name: \U0001f600", "", "cameras:", "  a:", "    url: x", "    nme: y", "")
    )
    said = refusal(write(tmp_path / "c.yaml", text)).splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in said] == ["2", "7"]
    assert load(write(tmp_path / "c.yaml", text.replace("\U0001f600", "x").replace("    nme: y" + end, "")))


def test_bytes_of_the_environment_that_are_no_text_are_refused_or_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environb, b"LATIN", b"caf\xe9")
    path = write(tmp_path / "c.yaml", "cameras: {a: {url: 'rtsp://me:${LATIN}@h/x'}}\n")
    assert load(path).specs()["a"].url == "rtsp://me:caf%E9@h/x"
    for text in (
        "cameras: {a: {url: x, title: '${LATIN}'}}",
        "secrets: s.env\nname: ${LATIN}\n" + CAMERAS,
        "recordings: '${LATIN}/{name}.mp4'\n" + CAMERAS,
    ):
        assert "LATIN" in refusal(write(path, text)), text


@pytest.mark.parametrize(
    "name", ["a\0b.yaml", "\udc80.yaml", "\ud800.yaml", "x" * 300 + ".yaml", "a/\n.yaml"]
)
def test_names_of_files_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path / name)


# ------------------------------------------------------------------------------------------- at random

CASES = 20 * int(os.environ.get("VALKKA_EXAMPLES", "60"))
GOOD = """\
name: house
secrets: s.env
web: {port: 0, token: "${TOKEN}"}
recordings: /r/{name}/%H.mp4
log: {level: debug, format: json}
workers: {group_size: 2, hang_timeout: 5}
defaults: {transport: udp, user: me, password: "${PW:-hunter2}"}
cameras:
  front: &front
    url: rtsp://10.0.0.1/live
    title: "Front \\u00e9"
    outputs:
      - {fps: 5, size: 640x360}
      - {format: jpeg, quality: 50}
    record: {seconds: 60, path: "/r/{name}-%H-{n:04}.mp4"}
  yard: {<<: *front, url: "rtsp://x:hunter2@10.0.0.2/live", enabled: false, outputs: []}
  gate: {url: 'lavfi:testsrc', user: "", options: {a: 1}}
"""
PIECES = [
    *":,-?&*!|>'\"%@`#{}[]~=$ \n\t\r\0\x7f\x85\xa0\u2028\u2029\ufeff\U0001f600\uffff",
    *("\n  ", "\n    ", ": ", "- ", "---\n", "...\n", "<<: *front", "*front", "&front "),
    *(f"!!{tag} " for tag in ("int", "str", "null", "binary", "set", "omap", "float", "timestamp")),
    *("!x ", "${", "${PW}", "$$", "${A:-", "{name}", "{n", "{n:99}", "[" * 40, "a: " * 3, "lavfi:", "rtsp://"),
    *("null", "true", ".nan", ".inf", "-1", "0", "1e9", "1:1:1", "2026-01-01", "0o7", "0x" + "f" * 4000),
    *('"\\UFFFFFFFF"', '"\\uD800"', '"\\0"', '"\\x"', '"\\L"', "%YAML 1.1\n", "%TAG ! x\n", "9" * 4400, "="),
    *(f"{key}: " for key in ("cameras", "url", "outputs", "record", "path", "size", "title", "web")),
]  # fmt: skip


def mutants(count: int) -> Iterator[bytes]:
    """Good configs in which something was cut, doubled, moved or replaced."""
    chance = random.Random(11)
    for number in range(count):
        data = GOOD.encode()
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.choice((0, 0, 1, 1, 5, 40)))
            piece = chance.choice(
                (
                    b"",
                    chance.choice(PIECES).encode("utf-8", "surrogatepass"),
                    bytes([chance.randrange(256)]),
                    data[end : end + chance.randrange(60)],
                )
            )
            data = data[:at] + piece + data[end:]
        # Now and then a file made of pieces alone.
        yield data if number % 5 else "".join(chance.choices(PIECES, k=chance.randrange(1, 25))).encode()


def test_of_any_file_a_config_or_an_error_is_made_and_no_password_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "hunter2")
    monkeypatch.setenv("TOKEN", "hunter2" * 3)
    secrets = write(tmp_path / "s.env", "TOKEN=hunter2hunter2hunter2\n")
    secrets.chmod(0o600)
    path = tmp_path / "c.yaml"
    outcomes = {True: 0, False: 0}
    for data in mutants(CASES):
        write(path, data)
        try:
            config = load(path)
        except ConfigError as e:
            outcomes[False] += 1
            lines = str(e).split("\n")
            assert len(lines) == min(len(e.problems), 101)
            assert all(line.startswith((str(path), str(secrets))) for line in lines), data
            # (As a part of a word it may be one of a key, which is repeated.)
            assert "hunter2" not in str(e) or re.search(rb"\whunter2", data), data
            assert all(
                p.line is None or 1 <= p.line <= data.count(b"\n") + data.count(b"\r") + 1 for p in e.problems
            )
        else:
            outcomes[True] += 1
            assert isinstance(config, Config) and config.specs() is not None
            assert "hunter2" not in repr(config)
    assert min(outcomes.values()) > CASES // 50  # neither is rare


@pytest.mark.parametrize("cut", ["cut anywhere", "with a character changed"])
def test_a_file_that_is_broken_somewhere_is_told_without_its_password(cut: str, tmp_path: Path) -> None:
    text = (
        "cameras:\n  a:\n    url: rtsp://me:hunter2@h/x\n    password: hunter2 # x\nweb: {token: hunter2}\n"
    )
    told = 0
    for broken in (
        [text[:i] for i in range(0, len(text), 2)]
        if cut == "cut anywhere"
        else [text[:i] + c + text[i + 1 :] for i in range(len(text)) for c in "\n:'&{"]
    ):
        path = write(tmp_path / "c.yaml", broken)
        try:
            load(path)
        except ConfigError as e:
            told += 1
            assert "hunter2" not in str(e), broken
            assert all(line.startswith(str(path)) for line in str(e).splitlines())
    assert told > 30
