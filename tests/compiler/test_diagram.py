"""What the flowchart of a workflow says about its clocks."""

from compiler.diagram import mermaid
from compiler.parser import parse_workflow

CLOCKS = """
version: 1
workflow: w
trigger: {event: start}
steps:
- {id: a, wait_until: {at: "09:00", days: [mon, fri]}}
- {id: b, wait_until: entry.renewal_at}
- {id: c, window: {from: "09:00", to: "17:00"}}
"""


def test_local_times_timestamps_and_windows_are_written_out() -> None:
    lines = mermaid(parse_workflow(CLOCKS, "workflows/w.yaml").workflow).splitlines()
    assert [line.strip() for line in lines if line.strip().startswith(("s0([", "s1([", "s2(["))] == [
        's0(["a: wait until 09:00 mon, fri"])',
        's1(["b: wait until entry.renewal_at"])',
        's2(["c: window 09:00–17:00"])',
    ]
