"""Figures as a table for people."""

FRESH = "<!-- Written by `make bench`. Do not edit; measure again. -->"
HEAD = ["case", "figure", "median", "lowest to highest", "bound", "goal", "", "details"]


def table(figures):
    """A Markdown table with aligned columns, readable in a terminal."""
    return aligned([HEAD, *map(_row, figures)])


def document(figures, facts, effort):
    """The text of the results file."""
    lines = [
        "# Results",
        "",
        FRESH,
        "",
        "[README.md](README.md) describes the cases and the method.",
        f"Each case has {effort.rounds} pairs of runs of at least {effort.seconds} s.",
        "Read the ratios: absolute figures differ between machines and from hour to hour.",
        "",
        table(figures),
        "",
        "## Measured on",
        "",
        aligned([["what", "which"], *map(list, facts)]),
        "",
    ]
    return "\n".join(lines)


def _row(figure):
    spread, asked = figure.spread, figure.asked
    sign = "≥" if asked and asked.at_least else "≤"
    limits = (asked.bound, asked.goal) if asked else (None, None)
    is_single = spread.low == spread.high
    return [
        figure.case,
        figure.what,
        _with_unit(spread.median, figure.unit),
        "" if is_single else f"{_number(spread.low)} to {_number(spread.high)}",
        *("" if limit is None else f"{sign} {limit:g}" for limit in limits),
        figure.verdict(),
        figure.note,
    ]


def _with_unit(value, unit):
    return f"{_number(value)} {unit}"


def _number(value):
    """At least three significant digits."""
    size = abs(value)
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def aligned(rows):
    """A Markdown table of strings; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])
