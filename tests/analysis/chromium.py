"""A headless Chromium for tests of pages: opens a file, runs a script in it, and returns what the script and the console said."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_WATCH = """<script>window.__said = [];
addEventListener("error", e => __said.push(String(e.message)));
addEventListener("securitypolicyviolation", e => __said.push("policy: " + e.violatedDirective));
const __error = console.error; console.error = (...a) => { __said.push(a.join(" ")); __error(...a); };</script>"""


def run_in(page: str, script: str, *, width: int = 1280) -> tuple[dict, list[str]]:
    """The object that `script` (a function body) returns once the page is there, and every error that the page raised.

    The page's content security policy is taken off, or this script would not run; a test of the policy reads the page itself."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    done = f"""<script>{{ const out = document.createElement("pre"); out.id = "told";
let value; try {{ value = (() => {{ {script} }})(); }} catch (e) {{ __said.push(String(e)); }}
out.textContent = JSON.stringify([value ?? null, __said]); document.body.append(out); }}</script>"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page.replace("<head>", f"<head>{_WATCH}", 1).replace("</body>", f"{done}</body>"), encoding="utf-8")
        dom = _dump(file, Path(folder), width=width)
    value, said = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL).group(1)))
    return value, said


def console_of(page: str) -> list[str]:
    """What the page as it is writes to the console: errors and violations of its content security policy among it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        finished = _chromium(file, Path(folder), "--enable-logging=stderr", width=1280)
    assert 'id="ranked-table"' in finished.stdout or "<h2" in finished.stdout, "the page was not drawn"
    return [line for line in finished.stderr.splitlines() if ":CONSOLE" in line]


def _dump(file: Path, home: Path, *, width: int) -> str:
    return _chromium(file, home, width=width).stdout


def _chromium(file: Path, home: Path, *options: str, width: int) -> subprocess.CompletedProcess[str]:
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={home}/profile"]
    command = [BINARY, *fixed, f"--window-size={width},900", *options, "--dump-dom", file.as_uri()]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
