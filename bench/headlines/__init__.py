"""The headlines of what keypool is for, each measured anew: "there" is what was promised, "here" what this build does.

One file for each, one line in `ALL`. A headline has a `TITLE` and a function `measure(bench)` that yields `Row`s.
"""

from . import gemini, vision

# By the letter that `make bench-mission ARGS=…` takes.
ALL = {"A": vision, "B": gemini}
