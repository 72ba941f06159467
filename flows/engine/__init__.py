"""The engine: evaluates plans in one transaction per tick and delivers the intents that came out of it."""
