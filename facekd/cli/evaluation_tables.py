"""How `facekd evaluate` shows its figures to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table


def percent(value: float) -> str:
    """A share in per cent, two decimals."""
    return f"{100 * value:.2f} %"


def row_table(figures: Mapping[str, Any]) -> Table:
    """One row with every plain figure."""
    table = Table(*figures)
    table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in figures.values()))
    return table


def verification_table(figures: Mapping[str, Any]) -> Table:
    """Accuracy and TAR at FAR of a pair protocol."""
    return protocols_table({"": figures})


def protocols_table(protocols: Mapping[str, Mapping[str, Any]]) -> Table:
    """Accuracy and TAR at FAR of pair protocols, a row each; the name of the only one may be empty."""
    named = any(protocols)
    rates = list(next(iter(protocols.values()))["tar"])
    columns = ("accuracy", "std", *(f"TAR at FAR {rate}" for rate in rates), "EER", "pairs", "undetected")
    table = Table(*(["protocol"] if named else []), *columns)
    captions = []
    for name, figures in protocols.items():
        shares = (figures["accuracy"], figures["std"], *figures["tar"].values(), figures["eer"])
        counts = (str(figures["pairs"]), str(figures["undetected"]))
        table.add_row(*([name] if named else []), *(percent(value) for value in shares), *counts)
        if "interval" in figures:
            intervals = (
                f"{what if what == 'accuracy' else f'TAR at {what}'} {percent(low)} to {percent(high)}"
                for what, (low, high) in figures["interval"].items()
            )
            captions.append(f"95 % over people{f', {name}' if named else ''}: {'; '.join(intervals)}")
    table.caption = "\n".join(captions) or None
    return table


def ijb_table(figures: Mapping[str, Any]) -> Table:
    """TAR at FAR between templates."""
    table = Table("FAR", "TAR")
    for rate, tar in figures["tar"].items():
        table.add_row(rate, percent(tar))
    table.caption = (
        f"{figures['pairs']:,} comparisons of {figures['templates']:,} templates, EER {percent(figures['eer'])}"
    )
    return table


def with_groups(table: Table, figures: Mapping[str, Any]) -> RenderableType:
    """A table of figures, and below it the false-match rates within groups, where they were asked for."""
    if "groups" not in figures:
        return table
    rates = figures["groups"]
    below = Table("group", "photographs", "pairs", *(f"FMR where FAR is {rate}" for rate in rates))
    below.title = "false-match rates of different people of one group"
    rows = {name: [groups[name] for groups in rates.values()] for name in next(iter(rates.values()))}
    if "everybody" in figures:
        rows["(everybody)"] = list(figures["everybody"].values())
    for name, found in rows.items():
        cells = (f"{group['fmr']:.1e} ({group['false_matches']:,})" if group["pairs"] else "no pair" for group in found)
        below.add_row(name, f"{found[0]['crops']:,}", f"{found[0]['pairs']:,}", *cells)
    thresholds = ", ".join(f"{figures['thresholds'][rate]:.4f}" for rate in rates)
    below.caption = (
        f"thresholds {thresholds}, those of the table above; in brackets how many false matches: a rate that rests on "
        "fewer than about 30 is a guess"
    )
    return Group(table, below)


def crops_table(figures: Mapping[str, Any]) -> Table:
    """TAR at FAR of all pairs, with intervals."""
    intervals = figures.get("tar_interval", {})
    table = Table("FAR", "TAR", "95 %", "threshold")
    for rate, tar in figures["tar"].items():
        low_high = " to ".join(f"{value:.3f}" for value in intervals.get(rate, []))
        table.add_row(rate, f"{tar:.4f}", low_high, f"{figures['thresholds'][rate]:.4f}")
    pairs = figures["pairs"]
    table.caption = (
        f"{figures['crops']:,} crops of {figures['identities']:,} people, {pairs['mated']:,} mated and "
        f"{pairs['non_mated']:,} non-mated pairs, EER {percent(figures['eer'])}"
    )
    return table


def detection_table(figures: Mapping[str, Any]) -> Table:
    """Detection figures, at all scores and at the threshold."""
    at = figures["at_threshold"]
    table = Table("figure", "value")
    table.add_row("AP at IoU 0.5", f"{figures['ap']:.4f}")
    table.add_row("AP at IoU 0.5:0.95", f"{figures['ap_50_95']:.4f}")
    table.add_row("recall at precision 0.90", f"{figures['recall_at_precision_0.90']:.4f}")
    table.add_row("recall at 0.1 false alarms a photograph", f"{figures['recall_at_fppi_0.1']:.4f}")
    at_score = f"at score {figures['score_threshold']:.2f}"
    table.add_row(f"recall and precision {at_score}", f"{at['recall']:.4f}, {at['precision']:.4f}")
    table.add_row(
        f"false alarms {at_score}",
        f"{at['false_alarms']}; {at['false_alarms_without_faces']} in "
        f"{at['photographs_without_faces']} photographs without faces",
    )
    for size in figures["by_size"]:
        table.add_row(
            f"recall {at_score}, {size['low_px']:.0f} to {size['high_px']:.0f} px",
            f"{size['recall']:.4f} of {size['faces']}",
        )
    table.caption = f"{figures['images']} photographs, {figures['faces']} faces"
    return table


def mask_table(figures: Mapping[str, Any]) -> Table:
    """The confusion matrix with the recall of each class."""
    classes = figures["classes"]
    table = Table("truth", "recall", *(f"called {name}" for name in classes))
    for name, row in zip(classes, figures["confusion"], strict=True):
        table.add_row(name, f"{figures['recall'][name]:.4f}", *(str(count) for count in row))
    table.caption = f"accuracy {percent(figures['accuracy'])} of {figures['images']} crops"
    return table
