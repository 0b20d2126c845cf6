"""Load tests: what the server costs, and whether it answers on time over a backend that does not."""
