"""Figures as a table that people read."""

FRESH = "<!-- Written by `make bench`: measure again instead of editing. -->"
HEAD = ["case", "figure", "median", "lowest to highest", "bound", "goal", "", "in detail"]


def table(figures):
    """A Markdown table, its columns aligned for reading in a terminal."""
    return aligned([HEAD, *map(_row, figures)])


def document(figures, facts, effort):
    """The file with the results."""
    lines = [
        "# Results",
        "",
        FRESH,
        "",
        "What the cases are and how they are measured: [README.md](README.md).",
        f"{effort.rounds} pairs of runs of {effort.seconds} s or more for each case.",
        "Read the ratios: absolute figures change with the machine and from hour to hour.",
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
    """Three digits or more."""
    size = abs(value)
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def aligned(rows):
    """A Markdown table of texts; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])
