"""Settings of all tests: hypothesis draws the same examples every time, and no machine is too slow for it."""

from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")
