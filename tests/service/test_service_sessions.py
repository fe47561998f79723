# SPDX-License-Identifier: MIT
"""Sessions: who stays signed in over a restart, who does not, and what becomes of the files behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, once, served

from support.program import SECONDS, Program
from valkka_async.service import state as state_files
from valkka_async.service.control import ask
from valkka_async.service.state import State, directory
from valkka_async.service.web.sessions import Sessions
from valkka_async.service.web.visits import SIGNED_OUT

TOKEN = "a-made-up-token-for-tests"
KEY = bytes(range(32))


def locked(token: str = TOKEN) -> Settings:
    return Settings(token=SecretStr(token))


async def sign_in(client: aiohttp.ClientSession, token: str = TOKEN) -> str:
    """The cookie, as a browser sends it."""
    async with client.post("/login", data={"token": token}, allow_redirects=False) as answer:
        assert answer.status == 303
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    client.cookie_jar.clear()
    return cookie


async def known(client: aiohttp.ClientSession, cookie: str) -> bool:
    async with client.get("/api/status", headers={"Cookie": cookie}) as answer:
        client.cookie_jar.clear()
        return answer.status == 200


# ------------------------------------------------------------------------------------------- over a restart


def opened(url: str, cookie: str = "", **form: str) -> tuple[int, str]:
    """Status, and the cookie that came with it."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: object) -> None:
            return None

    data = "&".join(f"{key}={value}" for key, value in form.items()).encode() if form else None
    request = urllib.request.Request(url, data, {"Cookie": cookie} if cookie else {})
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=SECONDS) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers.get("Set-Cookie", "").partition(";")[0]


def test_a_tablet_on_the_wall_stays_signed_in_over_a_restart_until_it_signs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(home))
    config = tmp_path / "cameras.yaml"
    text = "web: {port: 0, token: %s}\nlog: {format: json}\ncameras:\n  one: {url: 'rtsp://127.0.0.1:9/x'}\n"
    config.write_text(text % TOKEN)
    with Program("run", str(config)) as program:
        url = program.line()
        status, cookie = opened(url + "login", token=TOKEN)
        assert status == 303 and cookie
        key = home / "service.key"
        assert (key.stat().st_mode & 0o777, home.stat().st_mode & 0o777) == (0o600, 0o700)
        program.end(signal.SIGKILL)
    with Program("run", str(config)) as program:
        url = program.line()
        assert opened(url + "api/status", cookie)[0] == 200
        config.write_text((text % TOKEN).replace("port: 0", "port: 0, max_connections: 9"))
        url = ask("service", "reload", SECONDS)["text"].rpartition(" ")[2]
        assert opened(url + "api/status", cookie)[0] == 200
        assert opened(url + "logout", cookie, so="long")[0] == 303
        assert opened(url + "api/status", cookie)[0] == 401
        again = opened(url + "login", token=TOKEN)[1]
        program.end(signal.SIGTERM)
    config.write_text(text % (TOKEN + "2"))
    with Program("run", str(config)) as program:
        url = program.line()
        assert opened(url + "api/status", again)[0] == 401  # another token: nobody is signed in any more
        config.write_text(text % TOKEN)
        url = ask("service", "reload", SECONDS)["text"].rpartition(" ")[2]
        assert opened(url + "api/status", again)[0] == 200
        assert opened(url + "api/status", cookie)[0] == 401  # it had signed out
        status, errors = program.end(signal.SIGTERM)
    assert status == 0 and TOKEN not in errors and key.read_text().strip() not in errors


@once
async def test_who_signs_out_is_out_in_all_windows_and_with_all_copies(tmp_path: Path) -> None:
    async with served(Stand(), locked(), State(tmp_path, "stand")) as client:
        mine, other = await sign_in(client), await sign_in(client)
        async with (
            client.ws_connect("/api/status/live", headers={"Cookie": mine}) as window,
            client.ws_connect("/api/status/live", headers={"Cookie": other}) as elsewhere,
        ):
            await window.receive_str(timeout=10)
            evil = {"Cookie": mine, "Origin": "http://evil.example"}
            async with client.post("/logout", headers=evil) as answer:
                assert answer.status == 403 and await known(client, mine)
            async with client.get("/logout", headers={"Cookie": mine}) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "POST")
            own = {"Cookie": mine, "Origin": str(client._base_url).rstrip("/")}
            async with client.post("/logout", headers=own, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/login")
                assert "Max-Age=0" in answer.headers["Set-Cookie"]
            while not window.closed:
                await window.receive(timeout=10)
            assert window.close_code == SIGNED_OUT
            assert not await known(client, mine) and await known(client, other)
            await elsewhere.receive_str(timeout=10)
        for nobody in ({}, {"Cookie": mine}, {"Cookie": "x=y"}):
            async with client.post("/logout", headers=nobody, allow_redirects=False) as answer:
                assert answer.status == 303
    async with served(Stand(), locked(), State(tmp_path, "stand")) as client:
        assert not await known(client, mine) and await known(client, other)
    async with served(Stand()) as client, client.post("/logout", allow_redirects=False) as answer:
        assert answer.status == 303  # a page without a token has no sessions


# -------------------------------------------------------------------------------------------------- cookies


def test_a_cookie_is_worth_something_with_its_key_name_and_token_alone() -> None:
    ours = Sessions(KEY, "front:8088", TOKEN)
    cookie = ours.begin(secure=False)
    assert Sessions(KEY, "front:8088", TOKEN).find(cookie) == ours.find(cookie) is not None
    for other in (
        Sessions(KEY[::-1], "front:8088", TOKEN),
        Sessions(KEY, "front:8089", TOKEN),
        Sessions(KEY, "front:8088", TOKEN + "x"),
    ):
        assert other.find(cookie) is None
    begun, until, number, kind, signature = cookie.split(".")
    for wrong in (
        f"{begun}.{int(until) + 1}.{number}.{kind}.{signature}",
        f"{int(begun) + 1}.{until}.{number}.{kind}.{signature}",
        f"{begun}.{until}.{number}.s.{signature}",
        f"{begun}.{until}.{'0' * 32}.{kind}.{signature}",
        f"{begun}.{until}.{number}.{kind}.{signature[:-1]}",
        f"{begun}.{until}.{number}.{kind}.{signature.upper()}",
        f"{cookie}\n",
        f"{begun}.{'9' * 5000}.{number}.{kind}.{signature}",
        f"{begun}.-{until}.{number}.{kind}.{signature}",
        "",
        "....",
        "ü" * 100,
        TOKEN,
    ):
        assert ours.find(wrong) is None, wrong


def test_how_long_a_session_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: begun)
    sessions = Sessions(KEY, "x", TOKEN)
    cookie = sessions.begin(secure=True)

    def after(seconds: float, cookie: str) -> str | None:
        """The cookie that a browser has then; None: it has to sign in."""
        monkeypatch.setattr(time, "time", lambda: begun + seconds)
        session = sessions.find(cookie)
        assert session is None or session.secure
        return None if session is None else sessions.renewed(session) or cookie

    day = 24 * 3600.0
    assert after(1 * day, cookie) == cookie and after(8 * day, cookie) is None
    day_by_day: str | None = cookie  # one that is used stays, and not for ever
    for number in range(1, 120):
        if (day_by_day := after(number * day, day_by_day)) is None:
            break
    assert number == 90
    # A clock that has jumped: a cookie of a moment ago, on a machine that wakes up in the past.
    assert after(-20 * day, cookie) and after(-3650 * day, cookie) is None
    monkeypatch.setattr(time, "time", lambda: begun)
    session = sessions.find(cookie)
    assert session is not None
    sessions.end(session)
    # A clock that is ahead for a moment, while somebody else signs out.
    monkeypatch.setattr(time, "time", lambda: begun + 1000 * day)
    other = sessions.find(sessions.begin(secure=False))
    assert other is not None
    sessions.end(other)
    monkeypatch.setattr(time, "time", lambda: begun)
    assert sessions.find(cookie) is None


@once
async def test_a_session_that_is_used_gets_a_new_cookie_over_a_websocket_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(Stand(), locked()) as client:
        cookie = await sign_in(client)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 4 * 24 * 3600)
        async with client.ws_connect("/api/status/live", headers={"Cookie": cookie}) as socket:
            renewed = socket._response.headers["Set-Cookie"].partition(";")[0]
        client.cookie_jar.clear()
        monkeypatch.setattr(time, "time", lambda: now + 8 * 24 * 3600)
        assert not await known(client, cookie) and await known(client, renewed)


# ---------------------------------------------------------------------------------------------------- files


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert directory() == Path("/home/somebody/.local/state/valkka-async")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert directory() == tmp_path / "valkka-async"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/cameras:/var/lib/other")
    assert directory() == Path("/var/lib/cameras")


def spoil_link(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def spoil_owner(path: Path) -> None:
    os.chown(path, 12345, -1)


def spoil_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


SPOILT = {
    "mode": (lambda path: path.chmod(0o640), "has mode 0640"),
    "cut off": (lambda path: path.write_text(path.read_text()[:40]), "has no key in it"),
    "empty": (lambda path: path.write_text(""), "has no key in it"),
    "zeros": (lambda path: path.write_bytes(bytes(65)), "has no key in it"),
    "garbage": (lambda path: path.write_bytes(b"\xff" * 100_000), "has no key in it"),
    "more": (lambda path: path.write_text(path.read_text() * 2), "has no key in it"),
    "link": (spoil_link, "is a link"),
    "dead link": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "is a link"),
    "pipe": (spoil_pipe, "is no file"),
    "another name": (lambda path: os.link(path, path.with_name("other")), "has another name"),
    "owner": (spoil_owner, "belongs to somebody else"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_key_that_others_may_know_or_that_is_none_is_made_anew(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = State(tmp_path, "front").key()
    assert State(tmp_path, "front").key() == key != State(tmp_path, "yard").key() and not caplog.records
    path = tmp_path / "front.key"
    spoil, why = SPOILT[how]
    try:
        spoil(path)
    except PermissionError:
        pytest.skip("only root gives a file away")
    other = tmp_path / "other"
    before = other.read_bytes() if other.exists() else None
    new = State(tmp_path, "front").key()
    assert new != key and f"{why}" in caplog.text and "made anew" in caplog.text
    assert (path.lstat().st_mode & 0o170777, path.lstat().st_nlink) == (0o100600, 1)
    assert State(tmp_path, "front").key() == new
    assert before is None or other.read_bytes() == before  # what a link leads to is not touched
    assert key.hex() not in caplog.text and new.hex() not in caplog.text
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith(".")) == []


@pytest.mark.parametrize("error", ["write", "folder", "none"])
def test_where_nothing_can_be_written_all_works_until_the_restart(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder: Path | None = tmp_path / "state"
    if error == "write":  # as on a read-only file system, for root too

        def refuse(*args: object, **keywords: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(state_files.os, "replace", refuse)
    elif error == "folder":
        (tmp_path / "state").write_text("a file")
    else:
        folder = None
    state = State(folder, "front")
    assert len(state.key()) == 32 and "sign in again after a restart" in caplog.text
    state.sign_out("0" * 32)
    # For a page that a reload opens again.
    assert state.key() == state.key() and state.signed_out() == ["0" * 32]
    assert State(folder, "front").signed_out() == []
    with contextlib.suppress(NotADirectoryError):
        assert folder is None or list(folder.iterdir()) == []


def test_a_crash_while_the_key_is_written_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = State(tmp_path, "front").key()
    (tmp_path / "front.key").chmod(0o644)
    monkeypatch.setattr(state_files.os, "fsync", lambda fd: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        State(tmp_path, "front").key()
    assert (tmp_path / "front.key").read_text() == key.hex() + "\n"


def test_sessions_that_have_signed_out_are_remembered_in_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state_files, "SIGNED_OUT", 3)
    state = State(tmp_path, "front")
    assert state.signed_out() == []
    for n in range(10):
        state.sign_out(f"{n:032x}")
    three = [f"{n:032x}" for n in (7, 8, 9)]
    assert state.signed_out() == State(tmp_path, "front").signed_out() == three
    path = tmp_path / "front.signed-out"
    path.write_text("nonsense\n" + path.read_text() + "0")
    assert State(tmp_path, "front").signed_out() == three and not caplog.records
    path.chmod(0o666)
    assert State(tmp_path, "front").signed_out() == [] and "has mode 0666" in caplog.text


def test_who_sign_out_together_are_all_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes first to the file; and one that cannot be read later is not taken for empty."""
    state = State(tmp_path, "front")
    some = [f"{n:032x}" for n in range(16)]
    workers = [threading.Thread(target=state.sign_out, args=(id,)) for id in some]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(State(tmp_path, "front").signed_out()) == set(some)
    with monkeypatch.context() as later:
        later.setattr(state_files, "_read", lambda path: os.stat("/nowhere"))
        state.sign_out("f" * 32)
    assert set(State(tmp_path, "front").signed_out()) == {*some, "f" * 32}


# ------------------------------------------------------------------------------------------------- guessing


@once
async def test_ten_thousand_wrong_tokens_of_many_addresses_leave_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from valkka_async.service.web import auth

    monkeypatch.setattr(auth, "_WRONG_SECONDS", 0.0)
    number = iter(range(1_000_000))
    monkeypatch.setattr(auth, "client_of", lambda address: f"2001:db8:{next(number):x}::/64")
    caplog.set_level(logging.INFO)
    guards = []
    made = auth.Guard.__init__

    def remember(self: auth.Guard, *args: object) -> None:
        made(self, *args)  # type: ignore[arg-type]
        guards.append(self)

    monkeypatch.setattr(auth.Guard, "__init__", remember)
    async with served(Stand(), locked()) as client:
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"
        reader, writer = await asyncio.open_connection(client._base_url.host, client._base_url.port)
        for _ in range(100):
            writer.write(request * 100)
            for _ in range(100):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 401 ")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
        writer.close()
        await writer.wait_closed()
        (guard,) = guards
        assert not guard._wrong
    told = [r for r in caplog.records if "wrong token" in r.message]
    assert 20 <= len(told) <= 500 and told[0].client == "2001:db8:0::/64"  # type: ignore[attr-defined]


@once
async def test_who_guesses_too_fast_is_told_when_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from valkka_async.service.web import auth

    monkeypatch.setattr(auth, "_WRONG_AT_ONCE", 0)
    async with served(Stand(), locked()) as client:
        async with client.post("/login", data={"token": "x"}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
            assert answer.content_type == "text/html" and "Too many" in await answer.text()
        async with client.get("/api/status", headers={"Authorization": "Bearer x"}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
            assert (await answer.json())["code"] == "guesses"
