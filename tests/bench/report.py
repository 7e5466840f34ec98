"""What every benchmark writes: rows of figures, as JSON and as a table. Standard library only."""

import json
import os
import pathlib
import statistics


def machine():
    models = [line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":", 1)[1].strip() if models else "unknown processor"
    return f"{name}, {os.cpu_count()} cores"


def row(name, unit, better, goal, ours, theirs, peer):
    """A row of the report, from lists of figures, one a run."""
    own = statistics.median(ours)
    other = statistics.median(theirs) if theirs else None
    return {
        "name": name, "unit": unit, "better": better, "goal": goal if theirs else None,
        "hearth": own, "hearth_min": min(ours), "hearth_max": max(ours),
        "peer": other, "peer_name": peer if theirs else None,
        "peer_min": min(theirs) if theirs else None, "peer_max": max(theirs) if theirs else None,
        "ratio": own / other if theirs else own,
    }


def figure(value):
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def titled(found):
    return f"{found['name']} ({found['unit']}, {found['better']} is better)"


def print_table(rows):
    width = max((len(titled(found)) for found in rows), default=0)
    print(f"{'':{width}} {'Hearth':>10} {'min - max':>19} {'peer':>10} {'min - max':>19} {'ratio':>6} {'goal':>5}")
    for found in rows:
        peer, spread, ratio = "-", "-", "-"
        if found["peer"] is not None:
            peer, ratio = figure(found["peer"]), f"{found['ratio']:.2f}"
            spread = f"{figure(found['peer_min'])} - {figure(found['peer_max'])}"
        goal = "-" if found["goal"] is None else f"{found['goal']:.1f}"
        own = f"{figure(found['hearth_min'])} - {figure(found['hearth_max'])}"
        print(f"{titled(found):{width}} {figure(found['hearth']):>10} {own:>19} {peer:>10} {spread:>19} {ratio:>6} {goal:>5}")


def save(out, rows, more=()):
    """Writes the rows to a file, with what else was found."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), "rows": rows} | dict(more), indent=2) + "\n")


def write(out, rows):
    """Writes the rows to a file, and prints them."""
    save(out, rows)
    print_table(rows)
