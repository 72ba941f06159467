"""How long `penstock validate` takes as a whole process, on 50 workflows of 20 steps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.flows.projects import write_project

WORKFLOWS = 50
STEPS = 20
_BLOCK = """\
  - id: hello_{n}
    email: hello
  - id: seen_{n}
    wait_for: did('page_seen', event.id <> 'p{n}')
    since: hello_{n}
    within: 2d
    then:
      - id: tag_{n}
        tag: seen_{n}
    else: []
  - id: if_{n}
    if: contact.mail_ok and event_count('page_seen', within => '30d') >= {n} and not has_tag('no')
    then: []
    else:
      - id: wait_{n}
        wait: {n}d
"""


def times(runs: int) -> list[float]:
    """Seconds of `runs` processes over the same fresh project; in the first one nothing is cached by the project."""
    with tempfile.TemporaryDirectory(prefix="penstock-validate-") as folder:
        project = write_project(Path(folder))
        settings = project / "penstock.yaml"
        settings.write_text(
            settings.read_text(encoding="utf-8").replace("  interest: {points: 0}\n", ""), encoding="utf-8"
        )
        for number in range(WORKFLOWS):
            (project / "workflows" / f"flow_{number}.yaml").write_text(workflow_text(number), encoding="utf-8")
        return [_once(project) for _ in range(runs)]


def workflow_text(number: int) -> str:
    """A workflow of 20 steps: e-mails, waits for events, branches, tags, waits."""
    blocks = "".join(_BLOCK.format(n=n) for n in range(1, STEPS // 5 + 1))
    return f"version: 1\nworkflow: flow_{number}\ntrigger: {{event: signed_up}}\nsteps:\n{blocks}"


def _once(project: Path) -> float:
    command = [sys.executable, "-m", "studio.cli", "validate", "--project-dir", str(project)]
    penstock = Path(sys.executable).with_name("penstock")
    if penstock.exists():
        command[:3] = [str(penstock)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"penstock validate ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return seconds
