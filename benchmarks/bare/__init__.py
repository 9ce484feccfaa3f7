"""Loops that only pop and post: no order, no retries, no record. They are limits of the machine, not products."""
