"""What a run found: medians, ratios inside the same round, goals; as table, JSON and chart."""

import json
from dataclasses import dataclass
from statistics import median

REFERENCES = ("haproxy", "envoy", "relay")  # the table's ratios are to these
COLOURS = {"mortise": "#1b7f5c", "haproxy": "#2f6db5", "envoy": "#a8488f", "nginx": "#c77c1e",
           "plain": "#8a8a8a"}


class Record:
    """Results by (round, cell, peer). `peers` is {name: title} in the order of the table."""

    def __init__(self, peers, measures):
        self.peers, self.measures = peers, measures
        self._results = {}

    def add(self, round_, peer, result):
        self._results[round_, result.cell, peer] = result

    def rounds(self):
        return sorted({key[0] for key in self._results})

    def values(self, peer, measure):
        """{round: value} of the rounds in which the cell was valid."""
        cell, key = measure.split(".")
        found = {}
        for round_ in self.rounds():
            result = self._results.get((round_, cell, peer))
            if result and result.valid and key in result.values:
                found[round_] = result.values[key]
        return found

    def count(self, peer, measure):
        """(valid, run) rounds of the measure's cell."""
        cell = measure.split(".")[0]
        results = [r for (_, c, p), r in self._results.items() if (c, p) == (cell, peer)]
        return sum(r.valid for r in results), len(results)

    def median(self, peer, measure):
        values = self.values(peer, measure).values()
        return median(values) if values else None

    def ratios(self, peer, measure, reference):
        """Ratios peer / reference, each of values of one round."""
        own, other = self.values(peer, measure), self.values(reference, measure)
        return [own[r] / other[r] for r in sorted(own.keys() & other.keys()) if other[r] > 0]

    def ratio(self, peer, measure, reference):
        ratios = self.ratios(peer, measure, reference)
        return median(ratios) if ratios else None

    def invalid(self):
        """[(round, cell, peer, faults)] of every cell that had an error."""
        return [(round_, cell, peer, result.faults)
                for (round_, cell, peer), result in sorted(self._results.items())
                if not result.valid]

    def as_json(self):
        return {
            "results": [
                {"round": round_, "cell": cell, "peer": peer, "valid": result.valid,
                 "faults": result.faults, "values": result.values}
                for (round_, cell, peer), result in sorted(self._results.items())],
            "medians": {
                measure.name: {peer: self.median(peer, measure.name) for peer in self.peers}
                for measure in self.measures},
            "ratios": {
                measure.name: {
                    peer: {reference: self.ratio(peer, measure.name, reference)
                           for reference in REFERENCES if reference in self.peers}
                    for peer in self.peers}
                for measure in self.measures},
        }


@dataclass
class Verdict:
    text: str
    passed: bool


def judge(record, goals, peer):
    """Verdicts of `peer` on the goals. A goal is missed where nothing was measured, where less
    than half of the rounds give a comparison, and where any of our own cells had an error."""
    return [_judge_one(record, goal, goal.get("of", peer)) for goal in goals]


def _judge_one(record, goal, peer):
    measure, against = goal["measure"], goal.get("against")
    known = {m.name: m for m in record.measures}
    if measure not in known:
        raise ValueError(f"goals: no measure {measure!r}; there are: {', '.join(known)}")
    if ("at_most" in goal) == ("at_least" in goal):
        raise ValueError(f"goals: {measure}: give at_most or at_least")
    limit = goal.get("at_most", goal.get("at_least"))
    what = (f"{goal['of']}: " if "of" in goal else "") + known[measure].title + (f", against {against}" if against else "")
    what += f" {'<=' if 'at_most' in goal else '>='} {limit:g}"
    what += "" if against else f" {known[measure].unit}"

    found = record.ratios(peer, measure, against) if against else list(
        record.values(peer, measure).values())
    valid, run = record.count(peer, measure)
    if valid < run:
        return Verdict(f"{what}: {run - valid} of {run} cells had errors", False)
    if not found or 2 * len(found) < len(record.rounds()):
        return Verdict(f"{what}: not measured", False)
    value = median(found)
    passed = value <= limit if "at_most" in goal else value >= limit
    spread = f" ({min(found):.3g} to {max(found):.3g}, n = {len(found)})"
    return Verdict(f"{what}: {value:.3g}{spread}", passed)


def table(record):
    """The table as text: a row a measure, a column a peer; in brackets the ratios to REFERENCES.
    A number from fewer rounds than were run carries how many."""
    references = [name for name in REFERENCES if name in record.peers]
    rows = [["", "unit", *record.peers.values()]]
    for measure in record.measures:
        row = [measure.title, measure.unit]
        row += [_entry(record, measure, peer, references) for peer in record.peers]
        if any(text != "-" for text in row[2:]):
            rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) if i < 2 else text.rjust(width)
                       for i, (text, width) in enumerate(zip(row, widths))).rstrip()
             for row in rows]
    if references:
        lines.append(f"(medians of {len(record.rounds())} rounds; in brackets the median of the "
                     f"ratios inside each round to {' / '.join(references)})")
    return "\n".join(lines)


def _entry(record, measure, peer, references):
    valid, run = record.count(peer, measure.name)
    value = record.median(peer, measure.name)
    if value is None:
        return f"invalid 0/{run}" if run else "-"
    text = f"{value:.{measure.digits}f}"
    if references and peer not in references[:1]:
        ratios = [None if peer == r else record.ratio(peer, measure.name, r) for r in references]
        text += " (" + "/".join("-" if r is None else f"{r:.2f}" for r in ratios) + ")"
    return text if valid == run else f"{text} invalid {run - valid}/{run}"


def chart(record, path):
    """Small bars, one panel a measure, as SVG; False when matplotlib is not there."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    shown = [m for m in record.measures
             if any(record.median(peer, m.name) is not None for peer in record.peers)]
    if not shown:
        return False
    columns = 3
    rows = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(14, 1.9 * rows), squeeze=False)
    for axis in axes.flat[len(shown):]:
        axis.set_visible(False)
    for axis, measure in zip(axes.flat, shown):
        peers = [p for p in reversed(record.peers) if record.median(p, measure.name) is not None]
        for y, peer in enumerate(peers):
            values = record.values(peer, measure.name).values()
            middle = record.median(peer, measure.name)
            axis.barh(y, middle, color=COLOURS.get(peer, "#5b5b9f"), height=0.7,
                      xerr=[[middle - min(values)], [max(values) - middle]],
                      error_kw={"lw": 0.8, "ecolor": "#333333"})
            axis.annotate(f" {middle:.{measure.digits}f}", (max(values), y), va="center",
                          fontsize=7)
        axis.set_yticks(range(len(peers)), [record.peers[p] for p in peers], fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.margins(x=0.18)
        axis.set_xlim(left=0)
        better = "lower" if measure.lower_is_better else "higher"
        axis.set_title(f"{measure.title} [{measure.unit}], {better} is better", fontsize=8)
        for edge in ("top", "right"):
            axis.spines[edge].set_visible(False)
    figure.suptitle(f"Pairs of sidecars, medians of {len(record.rounds())} rounds; "
                    "whiskers: least and most", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(path, format="svg")
    pyplot.close(figure)
    return True


def write_json(path, record, about, verdicts):
    content = {"about": about, **record.as_json(),
               "goals": [{"goal": v.text, "passed": v.passed} for v in verdicts]}
    path.write_text(json.dumps(content, indent=1) + "\n")
