"""Where the collector and the ingest are killed, twice at each point: at first, and with a part of the work done."""

APPENDING = (("in_append", "in_append:2"), ("before_acknowledge", "before_acknowledge:3"))
TAKING_IN = (
    ("before_ingest", "before_ingest"), ("in_ingest", "in_ingest:2"), ("after_ingest", "after_ingest:2"),
)  # fmt: skip
