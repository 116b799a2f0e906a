"""The headlines: what keypool promises, measured on this build.

Each headline is one file and one line in `ALL`. It has a `TITLE` and a function `measure(bench)` that yields `Row`s.
"""

from . import gemini, jobs, quota, tiers, vision

# Keyed by the letter that `make bench-mission ARGS=…` takes.
ALL = {"A": vision, "B": gemini, "C": quota, "D": tiers, "J": jobs}
