"""Says at the end of a run in one process how many random cases it had, and how many differ."""

from pytest import TerminalReporter

from tests.oracle.tally import lines


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The last lines of `make soak`."""
    for line in lines():
        terminalreporter.write_line(line)
