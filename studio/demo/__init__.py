"""The demo: a shop, its customers and the simulated weeks."""
