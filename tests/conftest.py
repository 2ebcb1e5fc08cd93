"""Settings for the whole test suite."""

import os

# Before torch is imported: two threads add up in an order of their own, so runs that are compared
# to the bit take one; processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
