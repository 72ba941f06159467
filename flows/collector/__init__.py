"""The way back in: what happens outside comes over HTTP, is durable before it is acknowledged, and becomes events."""
