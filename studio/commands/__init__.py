"""One file per verb: what it does, and how it shows what came of it. The command line is in `studio.cli`."""
