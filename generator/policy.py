"""A page as the theme wrote it comes in; the same page with its content-security policy goes out.

The policy is the second wall: should a script get into a page all the same, a browser does not run it. The theme's own inline
scripts are let in by their hashes, learned from the one page that holds nothing anyone wrote.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

DIRECTIVES = {
    "default-src": "'self'",
    "script-src": "'self' 'wasm-unsafe-eval'",  # the search is WebAssembly
    "style-src": "'self' 'unsafe-inline'",  # figures and formulae carry style attributes
    "img-src": "'self' data:",  # figures hold pictures
    "font-src": "'self'",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "frame-src": "'none'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
EMPTY = "404.html"
"""The page of the theme that shows nothing of any note."""
_CHARSET = re.compile(r'<head>\s*<meta charset="[\w-]+"\s*/?>|<head>')
_INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)(?![^>]*\btype=\"application/(?:ld\+)?json\")[^>]*>(.*?)</script>", re.DOTALL
)
_BASE = re.compile(r'new URL\("[^"\\<>]*",location\)')
"""Where the theme's scripts name the root of the site, as seen from a page."""
_RELOADER = re.compile(rb"<script>([^<]*\blivereload\((?:(?!</script>).)*)</script>\s*</body>", re.DOTALL)


class Policy:
    """Gives each page its policy, once it has learned which inline scripts are the theme's."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def learn(self, empty: str) -> None:
        """Take the inline scripts of a page for the theme's own; the page must hold nothing anyone wrote."""
        self.known |= {_BASE.sub("", script) for script in _INLINE.findall(empty)}

    def put(self, page: str) -> str:
        """Return the page with its policy before all else that a browser could load or run."""
        scripts = dict.fromkeys(one for one in _INLINE.findall(page) if _BASE.sub("", one) in self.known)
        said = written([_digest(one.encode()) for one in scripts])
        return _CHARSET.sub(lambda head: f"{head[0]}\n{said}", page, count=1)


def written(scripts: Iterable[str] = ()) -> str:
    """Return the policy as a line of a page's <head>, with more sources of scripts."""
    directives = DIRECTIVES | {"script-src": " ".join([DIRECTIVES["script-src"], *scripts])}
    said = "; ".join(f"{name} {sources}" for name, sources in directives.items())
    return f'<meta http-equiv="Content-Security-Policy" content="{said}">'


def while_serving(app: Any) -> Callable[..., Any]:
    """Return a WSGI application that lets in the script by which MkDocs reloads a page, which differs at each request."""

    def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        told: list[Any] = []
        parts = app(environ, lambda *head: told.extend(head))
        status, headers, *more = told
        if any(name.lower() == "content-type" and value.startswith("text/html") for name, value in headers):
            body = _with_reloader(b"".join(parts))
            if hasattr(parts, "close"):
                parts.close()
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
            parts = [body]
        start_response(status, headers, *more)
        return parts

    return served


def _with_reloader(page: bytes) -> bytes:
    # MkDocs writes it before the last </body>, after everything a note could hold.
    found = _RELOADER.search(page, max(0, page.rfind(b"<script>")))
    if not found:
        return page
    return page.replace(b"script-src 'self'", b"script-src 'self' " + _digest(found[1]).encode(), 1)


def _digest(script: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
