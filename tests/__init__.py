"""Tests mirror the source tree; `house` tests the repository itself."""
