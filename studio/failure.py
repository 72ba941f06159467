"""What a person sees when a command fails: one line, the likely cause and what to do, never a traceback by default.

Exit codes: 0 done, 1 findings, 2 could not run, 3 held by a guard. A deliberate error brings its own code.
"""

import errno
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from compiler.errors import DefinitionError, PenstockError
from studio.console import Console
from studio.options import Options

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|PWD|CREDENTIAL|DSN|WEBHOOK|AUTH", re.IGNORECASE)
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
SHORTEST_SECRET = 6


def report(error: Exception, options: Options) -> int:
    """Tells the person (and, with `--output json`, the program) what went wrong.

    Returns:
        The exit code.
    """
    if isinstance(error, PenstockError):
        return _deliberate(error, options)
    if callable(say := getattr(error, "format_message", None)):
        return _usage(error, say(), options)
    return _unexpected(error, options)


def mask(text: str) -> str:
    """Hides e-mail addresses and the values of environment variables that look like secrets."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>")
    return ADDRESS.sub("<address>", text)


def _deliberate(error: PenstockError, options: Options) -> int:
    problems = error.problems if isinstance(error, DefinitionError) else ()
    lines = [f"✗ {problem}" for problem in problems] or [f"error {error.code}: {error.message}"]
    found = [
        {"code": p.code, "message": p.message, "file": p.file, "line": p.line, "column": p.column, "hint": p.hint}
        for p in problems
    ]
    document = {"code": error.code, "message": error.message, "hint": error.hint}
    _say(lines, error.hint, document | ({"problems": found} if found else {}), options)
    return error.exit_code


def _usage(error: Exception, message: str, options: Options) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "penstock"
    hint = f"{path} --help"
    _say([f"error: {message}"], hint, {"code": "usage", "message": message, "hint": hint}, options)
    return int(getattr(error, "exit_code", 2))


def _unexpected(error: Exception, options: Options) -> int:
    name = type(error).__name__
    summary = mask(" ".join(str(error).split())[:300])
    where = _place(error)
    cause = _likely_cause(error)
    log = _write_log(error, options)
    if options.debug:
        print(mask("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    hint = f"{cause}; details: {log}" if log else cause
    hint += "" if options.debug else "  (--debug shows the traceback)"
    line = f"error: unexpected {name} in {where}: {summary}" if summary else f"error: unexpected {name} in {where}"
    _say([line], hint, {"code": "unexpected", "message": f"{name}: {summary}", "hint": cause, "log": log}, options)
    return 2


def _say(lines: list[str], hint: str, document: dict[str, Any], options: Options) -> None:
    # An error is shown even with --quiet: it is the answer, not progress.
    loud = Console(Options(no_color=options.no_color))
    for line in lines:
        loud.err.print(line, markup=False, style="red" if line.startswith("error") else None)
    if hint:
        loud.err.print(f"  hint: {hint}", markup=False)
    if options.json:
        Console(options).result({"error": document}, "")


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    if not own:
        return "an unknown place"
    path = Path(own[-1].filename)
    return f"{path.parent.name}/{path.name}:{own[-1].lineno}"


def _likely_cause(error: Exception) -> str:
    text = str(error).lower()
    match error:
        case OSError(errno=errno.ENOSPC):
            return "the disk is full; free space and repeat the command"
        case PermissionError():
            return f"no permission for {error.filename or 'a file'}; check its owner and mode"
        case FileNotFoundError():
            return f"{error.filename or 'a file'} is missing; `penstock doctor` checks the project"
        case MemoryError():
            return "not enough memory; close other programs or choose fewer workflows with --select"
        case ConnectionError() | TimeoutError():
            return "a service does not answer; check its address and that it runs"
        case ImportError():
            return "a package is missing; install from requirements.lock, then `penstock doctor`"
        case UnicodeDecodeError():
            return "a file is not UTF-8 text"
        case _ if "lock" in text and type(error).__module__.split(".")[0] in {"duckdb", "_duckdb"}:
            return "another process holds the warehouse file; `penstock doctor` names it"
        case _:
            return "this is a mistake in Penstock, not in your files"


def _write_log(error: Exception, options: Options) -> str:
    folder = (options.project_dir or Path.cwd()) / ".penstock"
    text = mask("".join(traceback.format_exception(error)))
    for place in (folder if folder.is_dir() else None, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            handle, path = tempfile.mkstemp(prefix="crash-", suffix=".log", dir=place, text=True)
            with os.fdopen(handle, "w", encoding="utf-8") as log:
                log.write(text)
        except OSError:
            # A full or read-only disk must not hide the error itself.
            continue
        return path
    return ""
