# SPDX-License-Identifier: MIT
"""The page that asks for the token. It works before anything else of the page may be fetched, and without
scripts."""

from __future__ import annotations

from valkka_async.service.web.assets import asset

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sign in</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/login.css">
</head>
<body>
<main>
<h1>valkka-async</h1>
<form method="post" action="/login">
<input name="username" value="valkka-async" autocomplete="username" hidden>
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
{problem}<button type="submit">Sign in</button>
</form>
<p class="hint">It is the <code>token</code> under <code>web</code> in the service's config file.</p>
</main>
</body>
</html>
"""

STYLE = asset(
    "login.css",
    b"""\
:root {
  color-scheme: light dark;
  --edge: #8886; --accent: #2563eb; --bad: #b42318; --card: #fff; --back: #f3f4f6;
}
@media (prefers-color-scheme: dark) {
  :root { --accent: #3b78f0; --bad: #ff8a80; --card: #1b1f27; --back: #101319; }
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
button { margin-top: .75rem; border: 0; background: var(--accent); color: #fff; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.problem { margin: .75rem 0 0; color: var(--bad); }
.hint { margin: 1rem 0 0; font-size: .85rem; opacity: .75; }
""",
)


def page(problem: str = "") -> str:
    """With a sentence of ours on what went wrong, if something did."""
    return _PAGE.format(problem=f'<p class="problem" role="alert">{problem}</p>\n' if problem else "")
