"""The script for web pages: small, and in a real browser it reports what is done and stores nothing unasked."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.collector.service import Configuration, WriteKey, digest
from flows.collector.snippet import LARGEST, Snippet, source
from tests.flows.collector.serving import BROWSER_KEY, KEYRING, Served, served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = """<!doctype html><title>A page</title><a href="/other?secret=1"><b id="b">Other</b></a>
<pre id="said"></pre>
<script src="{script}" data-key="{key}"></script>
<script>
  addEventListener("click", function (event) {{ event.preventDefault(); }});
  document.getElementById("b").click();
  penstock.identify("{identity}");
  penstock.track("product_seen", {{product: "P-1"}});
  var before = document.cookie + Object.keys(localStorage).join();
  if (location.hash === "#consent") penstock.consent(true);
  document.getElementById("said").textContent =
    "before:" + before + ";after:" + document.cookie + Object.keys(localStorage).join() + ";";
</script>"""


def test_the_script_is_small_and_can_be_kept(tmp_path: Path) -> None:
    assert len(source()) <= LARGEST
    with served(tmp_path / "buffer", parts=[Snippet()]) as here:
        first = here.client.get("/penstock.js")
        again = here.client.get("/penstock.js", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, first.content, first.headers["content-type"]) == (
        200, source(), "text/javascript; charset=utf-8",
    )  # fmt: skip
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
@pytest.mark.parametrize("consent", [False, True])
def test_in_a_browser_it_reports_what_is_done_and_stores_nothing_before_consent(tmp_path: Path, consent: bool) -> None:
    with pages() as site:
        keys = {digest(BROWSER_KEY): WriteKey("web", "browser", 1000, frozenset({site.address}))}
        with served(tmp_path / "buffer", Configuration(keys, KEYRING), parts=[Snippet()]) as here:
            script = f"http://127.0.0.1:{here.port}/penstock.js"
            site.html = PAGE.format(script=script, key=BROWSER_KEY, identity=KEYRING.identity("c1"))
            shown = browsed(tmp_path, f"{site.address}/page?token=x{'#consent' if consent else ''}")
            _check(here, shown, site.address, consent=consent)


def _check(here: Served, shown: str, address: str, *, consent: bool) -> None:
    stored = "penstock_visitor" if consent else ""
    assert f"before:;after:{stored};" in shown
    found = here.events()
    assert [event["name"] for event in found] == ["page_viewed", "link_clicked", "identified", "product_seen"]
    assert len({event["anonymous_id"] for event in found}) == 1
    assert len({event["id"] for event in found}) == 4
    assert [event.get("contact_id") for event in found] == [None, None, "c1", "c1"]
    assert [event["properties"] for event in found] == [
        {"page": "/page", "title": "A page", "referrer": ""}, {"page": "/page", "link": f"{address}/other"}, {},
        {"product": "P-1"},
    ]  # fmt: skip


def browsed(folder: Path, address: str) -> str:
    """The page as a browser without a window shows it in the end."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000",
        "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class Site(ThreadingHTTPServer):
    """A web site of one page."""

    html = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        body = self.server.html.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def pages() -> Iterator[Site]:
    with Site(("127.0.0.1", 0), _Page) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()
