"""The published results, read from the tables in `results/published`."""

import csv
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "results" / "published"


def published(reference: str) -> str:
    """One line on what the paper reports, or that it reports nothing there.

    Arguments:
        reference: "figure1/<id>" or "figure2/<id>", an id of the table `<figure>.csv`.
    """
    figure, _, identity = reference.partition("/")
    path = DIRECTORY / f"{figure}.csv"
    rows = {row["id"]: row for row in read_table(path)}
    if identity not in rows:
        return f"nothing for {reference}"
    row = rows[identity]
    if figure == "figure1":
        spread = f"{row['rmse_min']} to {row['rmse_max']}, " if row["rmse_min"] else ""
        return f"validation RMSE {row['rmse']} ({spread}5 runs, Cirone et al., 2024, Figure 1)"
    if not row["blocks"]:
        return "no depth of 1 to 4 passes 0.90 (1 run, Cirone et al., 2024, Figure 2)"
    return (
        f"{row['blocks']} block(s) pass 0.90, within {row['thousand_steps']},000 steps "
        "(1 run, Cirone et al., 2024, Figure 2)"
    )


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a published table; lines that begin with # say where it comes from."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
