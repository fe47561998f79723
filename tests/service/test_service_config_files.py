# SPDX-License-Identifier: MIT
"""Config files: ${NAME} and the secrets file, paths, and files that cannot be read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from valkka_async.camera.source.secrets import parse
from valkka_async.errors import ValkkaError
from valkka_async.service.config.file import ConfigError, load

YAML = """\
name: house
web: {port: 0}
defaults: {transport: udp, user: me, password: pw}
cameras:
  front:
    url: rtsp://10.0.0.1/live
    outputs:
      - {fps: 5, size: 640x360}
      - {format: jpeg, quality: 50}
    record: {seconds: 60, path: /r/%H.mp4}
  yard: {url: "rtsp://10.0.0.2/live", enabled: false}
"""


def write(path: Path, text: str | bytes, mode: int = 0o644) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def url(folder: Path, url: str, *keys: str) -> str:
    """What a camera is opened with, when this is in the file."""
    text = "".join(f"{key}\n" for key in keys) + f"cameras: {{cam: {{url: '{url}'}}}}\n"
    return load(write(folder / "cameras.yaml", text)).specs()["cam"].url


def refusal(path: Path) -> str:
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert time.monotonic() - began < 20  # a fraction of a second; not for ever
    assert isinstance(caught.value, ValkkaError) and isinstance(caught.value, ValueError)
    return str(caught.value)


def test_a_file_may_have_either_name_line_ends_of_any_system_and_a_mark(tmp_path: Path) -> None:
    config = load(write(tmp_path / "a.yaml", YAML))
    assert list(config.specs()) == ["front"] and config.name == "house"
    assert load(write(tmp_path / "a.yml", b"\xef\xbb\xbf" + YAML.replace("\n", "\r\n").encode())) == config
    assert load(write(tmp_path / "A.YAML", YAML.replace("\n", "\r"))) == config


def test_an_empty_section_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    text = "cameras: {a: {url: 'rtsp://h/x'}}\n"
    config = load(write(tmp_path / "a.yaml", text))
    assert load(write(tmp_path / "b.yaml", text + "log:\nworkers:\ndefaults:\nsecrets:\n")) == config


# ------------------------------------------------------------------------------------------ ${NAME}


def test_a_password_of_the_secrets_file_may_have_any_character(tmp_path: Path) -> None:
    passwords = [
        "p@ss/w#rd",
        "a: {b: [c",
        "x'y",
        '"q',
        "50%",
        "%41",
        "${HOME}",
        "$$",
        "a b",
        "-",
        "ü",
        "k=v=w",
    ]
    lines = [f"P{i} = '{p}'" if '"' in p or " " in p else f"P{i}={p}" for i, p in enumerate(passwords)]
    text = "\ufeff# comment\n\n" + "\r\n".join(lines) + '\nexport QUOTED="a #b"\n'
    write(tmp_path / "s.env", text, 0o600)
    for i, password in [*enumerate(passwords)]:
        address = parse(url(tmp_path, f"rtsp://me:${{P{i}}}@10.0.0.1/live", "secrets: s.env"))
        assert password in address.secrets, password
        assert address.shown == "rtsp://me:***@10.0.0.1/live"
    assert url(tmp_path, "rtsp://h/${QUOTED}", "secrets: s.env") == "rtsp://h/a #b"


def test_values_come_from_the_file_then_the_environment_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "environment")
    monkeypatch.setenv("B", "environment")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("LOGIN", "me:a@b:c")
    monkeypatch.setenv("HOST", "10.0.0.1:554")
    write(tmp_path / "s.env", "A=file\nE=\n", 0o600)
    secrets = "secrets: s.env"
    assert url(tmp_path, "rtsp://h/${A}-${B}-${C:-default}", secrets) == "rtsp://h/file-environment-default"
    assert url(tmp_path, "rtsp://h/${E}${EMPTY}${EMPTY:-x}${E:-y}", secrets) == "rtsp://h/xy"
    assert url(tmp_path, "rtsp://h/$$${A:-}$$$", secrets) == "rtsp://h/$file$$"
    assert url(tmp_path, "rtsp://${LOGIN}@${HOST}/x") == "rtsp://me:a%40b%3Ac@10.0.0.1:554/x"
    assert url(tmp_path, "rtsp://me:${X:-p@/#}@${HOST}/x") == "rtsp://me:p%40%2F%23@10.0.0.1:554/x"
    assert url(tmp_path, "rtsp://h/user=me&password=${LOGIN}") == "rtsp://h/user=me&password=me:a@b:c"


def test_a_value_may_be_a_number_or_a_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "80", "FPS": "2.5", "NO": "false", "W": "64", "T": "t" * 16}.items():
        monkeypatch.setenv(name, value)
    text = """\
web: {port: "${PORT}", token: "${T}"}
cameras:
  a:
    url: rtsp://h/x
    live: ${NO}
    record: ${YES:-true}
    outputs: [{fps: "${FPS}", size: "${W}x48"}, {size: ["${W}", 48]}]
"""
    config = load(write(tmp_path / "a.yaml", text))
    camera = config.cameras["a"]
    assert config.web is not None and config.web.port == 80 and config.web.token is not None
    assert (camera.live, camera.record is not None, camera.outputs[0].fps) == (False, True, 2.5)
    assert camera.outputs[0].size == camera.outputs[1].size == (64, 48)


def test_a_secrets_file_that_others_may_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    secrets = write(tmp_path / "s.env", "PW=hunter2\n")
    path = write(tmp_path / "c.yaml", "name: x\nsecrets: s.env\ncameras: {a: {url: 'rtsp://me:${PW}@h/x'}}\n")
    for mode in (0o644, 0o640, 0o604, 0o620):
        secrets.chmod(mode)
        said = refusal(path)
        assert said == f"{path}:2: secrets: s.env may be opened by others: chmod 600 {secrets}"
    secrets.chmod(0o600)
    assert load(path).specs()["a"].url == "rtsp://me:hunter2@h/x"

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path.write_text(path.read_text().replace("s.env", "${CREDENTIALS_DIRECTORY}/s.env"))
    secrets.chmod(0o440)  # so it looks there
    assert load(path).specs()["a"].url == "rtsp://me:hunter2@h/x"
    secrets.chmod(0o444)
    assert "chmod 600" in refusal(path)


def test_each_line_of_a_secrets_file_that_is_none_is_told_without_repeating_it(tmp_path: Path) -> None:
    write(tmp_path / "s.env", 'A=1\nhunter2\nA=hunter2\nB=\'hunter2\nC="hunter2"x\n1X=hunter2\n', 0o600)
    path = write(tmp_path / "c.yaml", "secrets: s.env\ncameras: {a: {url: 'rtsp://h/${A}'}}\n")
    said = refusal(path)
    assert [line.split(": ")[0] for line in said.splitlines()] == [
        f"{tmp_path}/s.env:{n}" for n in range(2, 7)
    ]
    assert "hunter2" not in said and "A is there twice" in said and "a line is NAME=value" in said


# -------------------------------------------------------------------------------------------- paths


def test_paths_are_relative_to_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    folder = tmp_path / "100% {x}"
    folder.mkdir()
    write(
        folder / "c.yaml",
        "cameras:\n  a: {url: clip.mp4, record: {path: 'a/%H.mp4'}}\n  b: {url: /clip.mp4}\n"
        "  c: {url: ~/clip.mp4, record: {path: ~/c.mp4}}\n  d: {url: 'lavfi:testsrc'}\n",
    )
    monkeypatch.chdir(tmp_path)
    config = load("100% {x}/c.yaml")
    assert [s.url for s in config.specs().values()] == [
        str(folder / "clip.mp4"), "/clip.mp4", "/home/me/clip.mp4", "lavfi:testsrc"
    ]  # fmt: skip
    now = time.localtime()
    record, other = config.cameras["a"].record, config.cameras["c"].record
    assert record is not None and record.path is not None and other is not None
    written = time.strftime(record.path.format(name="a", n=1), now)
    assert written == f"{folder}/a/{time.strftime('%H', now)}.mp4"
    assert other.path == "/home/me/c.mp4"
    assert config.recordings.format(name="a", n=1).startswith(f"{tmp_path}/100%% {{x}}/recordings/a/%Y")


# --------------------------------------------------------------------------------- files that are odd


def test_aliases_and_merge_keys_work_and_errors_in_them_have_a_line(tmp_path: Path) -> None:
    text = """\
cameras:
  a: &a
    url: rtsp://h/x
    outputs: &o [{fps: 5}]
    transport: udp
  b: {<<: *a, transport: tcp}
  c: {<<: [{live: false}, *a], outputs: *o}
"""
    config = load(write(tmp_path / "a.yaml", text))
    assert config.cameras["b"] == config.cameras["a"].model_copy(update={"transport": "tcp"})
    assert config.cameras["c"] == config.cameras["a"].model_copy(update={"live": False})
    said = refusal(write(tmp_path / "b.yaml", text.replace("fps: 5", "fps: x")))
    assert [line.split(": ")[0].rpartition(":")[2] for line in said.splitlines()] == ["4"] * 3


def test_odd_files_are_refused(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: cannot be read: no such file or directory"
    )
    for name in ("c.json", "c.toml", "yaml"):
        assert "would end in .yaml or .yml" in refusal(write(tmp_path / name, YAML))
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("folder.yaml", "pipe.yaml"):
        assert refusal(tmp_path / name) == f"{tmp_path / name}: is not a file"


def test_of_very_many_errors_the_first_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "".join(f"k{i}: 1\n" for i in range(1000)) + YAML)
    said = refusal(path).splitlines()
    assert len(said) == 101 and said[-1] == "... and 900 more" and said[99].startswith(f"{path}:100: k99: ")
