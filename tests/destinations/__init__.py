"""The destinations against real servers on the loopback."""
