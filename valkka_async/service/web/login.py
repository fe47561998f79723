# SPDX-License-Identifier: MIT
"""The page that asks for the token, and those that say why there is none. They work before anything else of
the page may be fetched, and without scripts."""

from __future__ import annotations

import html

from aiohttp import hdrs, web

from valkka_async.service.web.assets import asset
from valkka_async.service.web.problems import DETAIL, TITLE

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/login.css">
</head>
<body>
<main>
<h1>{heading}</h1>
{body}</main>
</body>
</html>
"""
_FORM = """\
<form method="post" action="/login">
<input name="username" value="valkka-async" autocomplete="username" hidden>
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
{problem}<button type="submit">Sign in</button>
</form>
<p class="hint">It is the <code>token</code> under <code>web</code> in the service's config file.</p>
"""
_FAILURE = """\
<p>{detail}</p>
<p class="hint"><a href="/">To the cameras</a></p>
"""

STYLE = asset(
    "login.css",
    b"""\
:root {
  color-scheme: light dark;
  --edge: #8886; --accent: #2563eb; --bad: #b42318; --card: #fff; --back: #f3f4f6;
}
@media (prefers-color-scheme: dark) {
  :root { --accent: #6ea0ff; --bad: #ff8a80; --card: #1b1f27; --back: #101319; }
}
* { box-sizing: border-box; }
body {
  margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem;
  font: 1rem/1.5 system-ui, sans-serif; background: var(--back);
}
main { width: min(22rem, 100%); padding: 1.5rem; border: 1px solid var(--edge); border-radius: .75rem;
  background: var(--card); }
h1 { margin: 0 0 1rem; font-size: 1.25rem; }
label { display: block; margin-bottom: .25rem; }
input, button { width: 100%; padding: .6rem .75rem; border-radius: .5rem; font: inherit; }
input { border: 1px solid var(--edge); background: transparent; color: inherit; }
button { margin-top: .75rem; border: 0; background: #2563eb; color: #fff; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.problem { margin: .75rem 0 0; color: var(--bad); }
.hint { margin: 1rem 0 0; font-size: .85rem; opacity: .75; }
""",
)


def page(problem: str = "") -> str:
    """The form, with a sentence on what went wrong, if something did."""
    told = f'<p class="problem" role="alert">{html.escape(problem)}</p>\n' if problem else ""
    return _FRAME.format(title="Sign in", heading="valkka-async", body=_FORM.format(problem=told))


def for_people(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """The same problem as a page, where a person looks at it; any other response unchanged."""
    if (
        DETAIL not in response
        or not isinstance(response, web.Response)
        or request.path.startswith("/api/")
        or "text/html" not in request.headers.get(hdrs.ACCEPT, "")
    ):
        return response
    detail = response[DETAIL]
    title = html.escape(response[TITLE])
    body = _FAILURE.format(detail=html.escape(detail[:1].upper() + detail[1:] + "."))
    response.text = _FRAME.format(title=title, heading=title, body=body)
    response.content_type = "text/html"
    return response
