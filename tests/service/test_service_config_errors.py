# SPDX-License-Identifier: MIT
"""Every kind of error in a config file: one message, with its line, its key and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from valkka_async.service.config.file import ConfigError, Problem, load

# Files, each with one error. Its line has `#> KEY ... WORDS`, key and words of the message, and is read
# without that. "hunter2" is a password, and in no message.
YAML = r"""
cameras:
  a:
    title: a: b  #> ... a text with ': ' in it must be in quotes
----
cameras:
  a:
    url: x
   title: y  #> ... the indentation differs
----
name: 'x  #> ... a quote that is opened here is never closed
log: {}
web: {}
----
log: {level: info
name: x  #> ... a bracket that is opened before is not closed
----
cameras: {a: {url: rtsp://me:${PW}@h/x}}  #> ... a text with ${...} in it must be in quotes
----
cameras:
  a:
    url rtsp://me:hunter2@h/x
    live: true  #> ... the line before it lacks its colon
----
cameras:
  a: {url: x, password: @hunter2}  #> ... begins with one of @ ` %
----
cameras:
  a:
    password: *hunter2  #> ... begins with * must be in quotes
----
cameras:
  a:
    password: !hunter2 x  #> cameras.a.password ... with ! must
    url: rtsp://h/x
    user: y
----
name: a
---  #> ... remove the line ---
name: b
----
# cameras:  #> ... it is empty
----
- url: rtsp://me:hunter2@h/x  #> ... it is no `key: value` at the top
----
hunter2  #> ... it is no `key: value` at the top
----
cameras:  #> cameras ... there are no cameras; add one
----
name: x
cameras: {}  #> cameras ... there are no cameras; add one
----
name: x
cameras:  #> cameras ... not a list
  - url: x
----
nmae: x  #> nmae ... did you mean name?
----

port: 80  #> port ... port belongs to `web`
----
transport: udp  #> transport ... transport belongs to a camera, under its name below `cameras`
----
front: {url: x}  #> front ... a camera belongs below `cameras`
----
workers: {threads: 2}  #> workers.threads ... thread_count belongs to a camera
----
cameras:
  a:
    url: x
    fps: 5  #> cameras.a.fps ... belongs to an output, in a camera's list
----
cameras:
  a:
    url: x
    transpot: udp  #> cameras.a.transpot ... did you mean transport?
----
cameras:
  a:
    uri: x  #> cameras.a.uri ... did you mean url?
    url: y
----
cameras:
  a:
    url: x
    name: b  #> cameras.a.name ... the key above its own keys
----
cameras:
  a:
    url: x
    outputs:
      - fsp: 5  #> cameras.a.outputs[0].fsp ... mean fps?
----
defaults:
  url: x  #> defaults.url ... url belongs to a camera
----
cameras:
  a: {url: 'rtsp://h/x', user: me, password:hunter2}  #> cameras.a."password..." ... a space is missing
----
cameras:
  a:
    url: rtsp://me:hunter2@h/x
    url: x  #> cameras.a.url ... first time in line 3
----
cameras:
  a: {url: x}
  b: {url: x}
  a: {url: y}  #> cameras.a ... there twice, the first time in line 2
----
cameras:
  on: {url: x}  #> cameras.on ... takes this for true or false, and not for text: put it in quotes, "on":
----
cameras:
  1: {url: x}  #> cameras.1 ... takes this for a number, and not for text: put it in quotes, "1":
----
cameras:
  2026-01-01: {url: x}  #> cameras.2026-01-01 ... takes this for a date
----
cameras:
  my cam: {url: x}  #> cameras."my..." ... 1 to 59 of A-Z a-z 0-9 . _ -
----
cameras:
  rtsp://me:hunter2@h/x: {url: x}  #> cameras. ... 1 to 59 of
----
name: a b  #> name ... 1 to 64 of A-Z a-z 0-9 . _ -
----
log:
  level: inf  #> log.level ... one of debug, info, warning, error, not 'inf'; did you mean info?
----
log: json  #> log ... keys of its own (level, format), not text
----
recordings: /rec/{camera}/%H.mp4  #> recordings ... nothing in braces but {name} and {n}
----
recordings: /rec/%H.mp4  #> recordings ... {name} must be in it
----
workers: {group_size: 0}  #> workers.group_size ... a whole number, 1 or more, not 0
----
workers: {hang_timeout: .nan}  #> workers.hang_timeout ... a number from 1 to 604800, not nan
----
defaults:
  read_timeout: fast  #> defaults.read_timeout ... a number above 0, at most 604800, not 'fast'
----
defaults:
  live: maybe  #> defaults.live ... true or false, not 'maybe'
----
cameras:
  a:  #> cameras.a ... at least url: rtsp://HOST/PATH
----
cameras:
  a: rtsp://me:hunter2@h/x  #> cameras.a ... at least url: rtsp://HOST/PATH
----
cameras:
  a:  #> cameras.a.url ... a camera needs its address
    title: x
----
cameras:
  a:
    url:  #> cameras.a.url ... text belongs here, and there is nothing
----
cameras:
  a:
    streams: {}  #> cameras.a.streams ... as `main: rtsp://HOST/PATH` belongs here, and there is nothing
----
cameras:
  a:
    streams: {a: x, b: x, c: x, d: x, e: x, f: x,  #> cameras.a.streams ... at most 16 streams
              g: x, h: x, i: x, j: x, k: x, l: x, m: x, o: x, p: x, q: x, r: x}
----
cameras:
  a:
    streams: rtsp://me:hunter2@h/x  #> cameras.a.streams ... each stream's name with its address
----
cameras:
  a:
    streams: [rtsp://me:hunter2@h/x]  #> cameras.a.streams ... not a list
----
cameras:
  a:
    streams:
      main: rtsp://h/x
      sub: rtsp:/me:hunter2@h/x  #> cameras.a.streams.sub ... is written rtsp://HOST/PATH
----
cameras:
  a:
    streams:
      main: rtsp://h/x
      "rtsp://me:hunter2@h/y": sub  #> cameras.a.streams ... the name of a stream is
----
cameras:
  a:
    streams: {main: rtsp://h/x}
    url: rtsp://me:hunter2@h/x  #> cameras.a.url ... `url` or `streams`, and not both
----
cameras:
  a:
    streams: {main: rtsp://h/x, sub: rtsp://h/y}
    outputs:
      - {}
      - stream: sbu  #> cameras.a.outputs[1].stream ... no such stream; this camera has main and sub
        name: b
----
cameras:
  a:
    streams: {main: rtsp://h/x, sub: rtsp://h/y}
    live_stream: large  #> cameras.a.live_stream ... no such stream
----
cameras:
  a:
    streams: {main: rtsp://h/x, sub: rtsp://h/y}
    record: {stream: large}  #> cameras.a.record.stream ... no such stream
----
cameras:
  a:
    url: rtsp://h/x
    outputs: [{stream: sub}]  #> cameras.a.outputs[0].stream ... a `url` and no `streams`
----
cameras:
  a:
    streams:
      main: rtsp://h/x
      third: rtsp://h/y  #> cameras.a.streams.third ... no output uses this stream
----
cameras:
  a:
    streams:
      main: rtsp://h/x
      sub: rtsp://h/y  #> cameras.a.streams.sub ... give one `stream: sub`, or remove it
    live: false
    outputs: [{format: fmp4}]
----
cameras:
  a:
    streams: {main: rtsp://h/x, sub: rtsp://h/y}
    outputs:
      - {format: fmp4, stream: sub, name: a.fmp4}  #> cameras.a.outputs[0].name ... of the stream main
----
cameras:
  a:
    streams:
      main: lavfi:testsrc  #> cameras.a.streams.main ... cannot be recorded
      sub: rtsp://h/y
    record: true
----
cameras:
  a:
    streams: {main: rtsp://me:hunter2@h/x, sub: clip.mp4}  #> cameras.a.streams ... a user already, or no host
    user: other
----
cameras:
  a:
    stream: rtsp://me:hunter2@h/x  #> cameras.a.stream ... did you mean url?
    url: rtsp://h/x
----
cameras:
  a:
    url: rtsp://h/x
    connect: sometimes  #> cameras.a.connect ... always or on_demand
----
cameras:
  a:
    url: 10.0.0.1/hunter2  #> cameras.a.url ... begins with its protocol, as in rtsp://
----
cameras:
  a:
    url: rtps://me:hunter2@h/x  #> cameras.a.url ... did you mean rtsp://?
----
cameras:
  a:
    url: rtsp://me:hunter2@/x  #> cameras.a.url ... there is no host in it
----
cameras:
  a:
    url: rtsp://me:hunter2@h:99999/x  #> cameras.a.url ... from 1 to 65535
----
cameras:
  a: {url: 'rtsp://me:hunter2@h/x', user: me}  #> cameras.a.url ... it has a user already
----
cameras:
  a: {url: 'lavfi:x', user: me}  #> cameras.a.url ... it has no host
----
cameras:
  a: {url: x, password: hunter2}  #> cameras.a.password ... needs its `user`
----
cameras:
  a:
    url: rtsp://h/x
    user: me
    password: 01234  #> cameras.a.password ... put it in quotes
----
cameras:
  a:
    url: rtsp://h/x
    user: me
    password: #hunter2  #> cameras.a.password ... begins with #
----
cameras:
  a:
    url: x
    title: No  #> cameras.a.title ... without quotes this is true or false
----
cameras:
  a:
    url: x
    title: 2026-13-45  #> cameras.a.title ... put it in quotes
----
cameras:
  a:
    url: x
    transport: upd  #> cameras.a.transport ... one of tcp, udp, multicast, http, not 'upd'; did you mean udp?
----
cameras:
  a:
    url: x
    tls_ca_file: camera.pem  #> cameras.a.tls_ca_file ... it is for tls_verify: true, which is missing
----
cameras:
  a:
    url: x
    input_format: MJPEG  #> cameras.a.input_format ... such as mjpeg or v4l2, belongs here
----
cameras:
  a:
    url: x
    record: 5  #> cameras.a.record: keys of its own ... not a number
----
cameras:
  a:
    url: x
    hwaccel: c u  #> cameras.a.hwaccel ... such as cuda, vaapi
----
cameras:
  a:
    url: x
    options: {a: [hunter2]}  #> cameras.a.options.a ... text or a number, not a list
----
cameras:
  a:
    url: x
    outputs: {fps: 5}  #> cameras.a.outputs ... begin each output with a dash
----
cameras:
  a:
    url: x
    outputs: [{fps: 0}]  #> cameras.a.outputs[0].fps ... a number from 0.001 to 1000, not 0
----
cameras:
  a:
    url: x
    outputs: [{size: 640*360}]  #> cameras.a.outputs[0].size ... such as 640x360 or [640, 360]
----
cameras:
  a:
    url: x
    outputs: [{size: 5x5, format: nv12}]  #> cameras.a.outputs[0].size ... an even width
----
cameras:
  a:
    url: x
    outputs: [{format: rgb}]  #> cameras.a.outputs[0].format ... did you mean rgb24?
----
cameras:
  a:
    url: x
    outputs: [{format: fmp4, fps: 5}]  #> cameras.a.outputs[0].fps ... does not apply to fmp4
----
cameras:
  a: {url: x}
  b: {url: x, outputs: [{name: a}]}  #> cameras.b.outputs[0].name ... cameras a and b both feed the ring a
----
defaults: {outputs: [{name: r}]}
cameras:
  a: {url: x}
  b: {url: x}  #> cameras.b.outputs[0].name ... both feed the ring r
----
cameras:
  a:
    url: x
    outputs:
      - fps: 1
      - name: a  #> cameras.a.outputs[1].name ... two outputs of a
----
cameras:
  a:
    url: x
    outputs:
      - name: a.jpeg  #> cameras.a.outputs[0].name ... of format jpeg
----
web:
  host: 0.0.0.0  #> web.host ... python3 -c 'import secrets; print(secrets.token_urlsafe(32))'
----
web:
  host: 0.0.0.0:80  #> web.host ... the port has a key of its own
----
web:
  token: hunter2  #> web.token ... at least 16 characters
----
web:
  token: hunter2 hunter2 hunter2  #> web.token ... no spaces
----
web: {port: 65536}  #> web.port ... a whole number from 0 to 65535, not 65536
----
web:  #> web ... `web: false` for no page
----
cameras:
  a:
    url: rtsp://me:${NOT_SET}@h/x  #> cameras.a.url ... NOT_SET is not in the environment, and there is
----
name: ${a b}  #> name ... $$ for a dollar
----
name: ${a  #> name ... $$ for a dollar
----
recordings: rec/${name}/%H.mp4  #> recordings ... the camera is {name} here, without the dollar
----
web: {port: '${HUNTER}'}  #> web.port ... a whole number from 0 to 65535, not what ${...} gives
----
web: {host: '${HUNTER}'}  #> web.host ... others can reach ${...}
----
secrets: PW=hunter2  #> secrets ... the name of a file belongs here
name: ${X}
----
name: x
defaults: {user: !!int "", transport: tcp}  #> defaults.user ... put it in quotes
----
secrets: none.env  #> secrets ... none.env cannot be read: no such file
name: ${X}
"""

ODD = [
    ("", 1, "", "it is empty; a config has at least `cameras`"),
    (f"cameras:\n  {'a' * 60}: {{url: x}}\n", 2, "cameras.aaa", "at most 59 characters, not 60"),
    ("cameras:\n\tfront: 1", 2, "", "a tab: YAML is indented with spaces"),
    ('name: "a\\d"\n', 1, "", "use single quotes"),
    ("name: a\x01b", 1, "", "a control character"),
]


def problems(path: Path, text: str) -> tuple[Problem, ...]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return caught.value.problems


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUNTER", "hunter2")


def test_each_error_is_told_once_with_its_place_and_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    wrong = []
    for text, line, key, words in [*table_of(YAML, "cameras: {good: {url: x}}\n"), *ODD]:
        found = problems(path, text)
        message = str(found[0])
        good = message.startswith(f"{path}:{line}: {key}") and words in message
        if not good or len(found) > 1 or "hunter2" in message or len(message) - len(str(path)) > 260:
            wrong.append((text, list(map(str, found))))
    assert wrong == []


def table_of(text: str, camera: str) -> list[tuple[str, int, str, str]]:
    """Each file with its error: line, key, words. One that has no cameras and can be read is given one."""
    table = []
    for block in text.strip("\n").split("\n----\n"):
        match = re.search(r"  #> (.*?) ?\.\.\. (.*)", block)
        assert match is not None, block
        file = block[: match.start()] + block[match.end() :] + "\n"
        key = match[1]
        if key and "cameras" not in file:
            file += camera
        table.append((file, block.count("\n", 0, match.start()) + 1, key, match[2]))
    assert len(table) > 20
    return table


def test_all_errors_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
secrets: s.env
nmae: x
web: {host: 0.0.0.0, port: 99999}
defaults:
  transprot: udp
  read_timeout: 0
  outputs: [{name: shared}]
cameras:
  on: {url: 'rtsp://me:${MISSING}@${ALSO_MISSING}/x', fps: 5}
  a:
    url: 10.0.0.1
    url: x
    user: 5
    password: hunter2
    outputs: [{name: shared}, {fps: fast, size: 0x0}]
  b: {url: x, read_timeout: 5, outputs: [{name: x}, {name: shared, quality: 0}, {name: shared}]}
"""
    secrets = tmp_path / "s.env"
    secrets.write_text("A=1\nhunter2\n")
    secrets.chmod(0o600)
    found = problems(tmp_path / "c.yaml", text)
    assert [p.line for p in found[:-1]] == sorted(p.line or 0 for p in found[:-1])
    assert sorted((p.line, ".".join(map(str, p.path))) for p in found[:-1]) == [
        (2, "nmae"),
        (3, "web.host"),
        (3, "web.port"),
        (5, "defaults.transprot"),
        (6, "defaults.read_timeout"),
        (9, "cameras.on"),
        (9, "cameras.on.fps"),
        (9, "cameras.on.url"),
        (12, "cameras.a.url"),
        (13, "cameras.a.user"),
        (15, "cameras.a.outputs.0.name"),
        (15, "cameras.a.outputs.1.fps"),
        (15, "cameras.a.outputs.1.size"),
        (16, "cameras.b.outputs.1.quality"),
        (16, "cameras.b.outputs.2.name"),
    ]
    assert (found[-1].file, found[-1].line) == (str(secrets), 2)
    said = "\n".join(map(str, found))
    assert "MISSING is neither in s.env nor in the environment" in said and "ALSO_MISSING is neither" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("recordings", "first", "second"),
    [
        ("r/{name}/%H.mp4", "/r/%H.mp4", "/r/%H.mp4"),
        ("r/{name}/%H.mp4", "/r/{name}/%H.mp4", "/r/x/../a/%H.mp4"),
        ("r/{name}/../%H.mp4", "/a/%H.mp4", "/b/%H.mp4"),
        ("r/{{name}}/{name}.mp4", "/a/%H.mp4", "/b/%H.mp4"),
        ("r/{name}/%x.mp4", "/a/%H.mp4", "/b/%H.mp4"),
    ],
)
def test_recordings_of_two_cameras_have_names_of_their_own(
    tmp_path: Path, recordings: str, first: str, second: str
) -> None:
    """Otherwise one's `keep` deletes the other's."""
    text = f"recordings: '{recordings}'\ncameras:\n  a: {{url: 'rtsp://h/a', record: {{path: '{first}'}}}}\n"
    text += f"  b: {{url: 'rtsp://h/b', record: {{path: '{second}'}}}}\n"
    (found,) = problems(tmp_path / "c.yaml", text)
    assert found.line == (4 if first.startswith("/r/") else 1)
