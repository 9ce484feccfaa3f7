"""Loaded by processes whose clock libfaketime shifts: it does not know the absolute monotonic sleep of Python 3.11, which then fails; waiting for nothing sleeps as well."""

import select
import time

time.sleep = lambda seconds: select.select([], [], [], seconds)
