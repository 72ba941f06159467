"""The destinations speak: one file per outside system, outbound and inbound together."""
