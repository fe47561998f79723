"""gevent and eventlet are refused in words, where they are found."""

from __future__ import annotations

import errno

import pytest

from support.program import Child

PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "gevent's threads": "import gevent.monkey; gevent.monkey.patch_thread()",
    "gevent's select": "import gevent.monkey; gevent.monkey.patch_select()",
}


@pytest.mark.parametrize("patch", PATCH)
def test_what_is_patched_after_the_import_is_refused_in_words(patch: str) -> None:
    pytest.importorskip("gevent")
    with Child(
        f"""
        va.serve, va.attach, va.ConnectError
        {PATCH[patch]}
        for call in (va.serve, va.attach):
            try:
                call("s")
            except va.ConnectError as e:
                say(e.errno, e)
        """
    ) as child:
        for _ in range(2):
            number, _, text = child.line().partition(" ")
            assert int(number) == errno.ENOTSUP and "gevent has patched" in text


@pytest.mark.parametrize("patch", PATCH)
def test_what_is_patched_before_refuses_the_import(patch: str) -> None:
    pytest.importorskip("gevent")
    with Child(
        f"""
        {PATCH[patch]}
        for module in [name for name in sys.modules if name.startswith("valkka_async")]:
            del sys.modules[module]
        try:
            import valkka_async
        except ImportError as e:
            say(e)
        """
    ) as child:
        assert "gevent has patched" in child.line()


def test_gevent_that_patches_nothing_is_welcome() -> None:
    pytest.importorskip("gevent")
    with Child('import gevent\nva.serve("s").close(); say("fine")') as child:
        assert child.line() == "fine"


@pytest.mark.parametrize("patched", ["socket.socket", "select.select", "time.sleep", "threading.get_ident"])
def test_eventlet_is_refused_by_what_it_replaces(patched: str) -> None:
    """A module of its name that does what it does: eventlet itself is not developed any more."""
    module, name = patched.split(".")
    with Child(
        f"""
        import types, {module}
        va.serve, va.attach, va.ConnectError
        sys.modules["eventlet"] = types.ModuleType("eventlet")
        va.serve("s").close()  # it is there, and has replaced nothing
        def green(*arguments): pass
        green.__module__ = "eventlet.green"
        {module}.{name} = green
        for call in (va.serve, va.attach):
            try:
                call("s")
            except va.ConnectError as e:
                say(e.errno, e)
        """
    ) as child:
        for _ in range(2):
            number, _, text = child.line().partition(" ")
            assert int(number) == errno.ENOTSUP and "eventlet has patched" in text
