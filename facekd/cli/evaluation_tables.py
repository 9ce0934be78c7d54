"""How `facekd evaluate` shows its figures to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    tar = figures["tar"]
    table = Table("accuracy", "std", *(f"TAR at FAR {rate}" for rate in tar), "EER", "pairs", "undetected")
    table.add_row(
        *(percent(value) for value in (figures["accuracy"], figures["std"], *tar.values(), figures["eer"])),
        str(figures["pairs"]),
        str(figures["undetected"]),
    )
    if "interval" in figures:
        intervals = (f"{name}: {percent(low)} to {percent(high)}" for name, (low, high) in figures["interval"].items())
        table.caption = f"95 % over people: {'; '.join(intervals)}"
    return table


def crops_table(figures: Mapping[str, Any]) -> Table:
    """TAR at FAR of all pairs, with intervals, and false-match rates of groups."""
    intervals = figures.get("tar_interval", {})
    table = Table("FAR", "TAR", "95 %", "threshold")
    for rate, tar in figures["tar"].items():
        low_high = " to ".join(f"{value:.3f}" for value in intervals.get(rate, []))
        table.add_row(rate, f"{tar:.4f}", low_high, f"{figures['thresholds'][rate]:.4f}")
    pairs = figures["pairs"]
    table.caption = (
        f"{figures['crops']} crops of {figures['identities']} people, {pairs['mated']} mated and "
        f"{pairs['non_mated']} non-mated pairs, EER {percent(figures['eer'])}"
    )
    for rate, groups in figures.get("groups", {}).items():
        for name, group in groups.items():
            table.add_row(rate, f"FMR {group['fmr']:.1e}", f"{group['pairs']} pairs", name)
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
