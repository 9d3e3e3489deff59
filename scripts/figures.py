"""Draws figures from recorded results only.

    python scripts/figures.py quick      docs/quick_a5.png, from results/quick/
    python scripts/figures.py figure1    docs/figures/figure1.png and .pdf, from results/figure1/
    python scripts/figures.py figure2    the same of Figure 2
    python scripts/figures.py width      random features by width, from results/width/
    python scripts/figures.py all
    python scripts/figures.py figure1 figure2 --results results/small

A folder of results that holds `published/` is the paper's: its `figure1/` and `figure2/` are drawn,
solid, over the published values, faint. In any other every run below it is drawn, alone, and the
names of the files begin with the folder's. `quick/<model>/` holds the `metrics.jsonl`,
`summary.json` and `config.yaml` of one run of each quick preset: copy a run directory's files
there to draw another.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.analysis.figures.figure1 import draw_figure1
from experiments.analysis.figures.figure2 import draw_figure2
from experiments.analysis.figures.quick import draw_quick
from experiments.analysis.figures.results import is_of_paper, read_results
from experiments.analysis.figures.style import save
from experiments.analysis.figures.width import draw_width
from experiments.results.records import merge, read_runs

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("figure1", "figure2", "width")


def draw(name: str, results: Path) -> Figure:
    """Draws one of `FIGURES` from a folder of results."""
    if name == "width":
        return draw_width(merge(read_runs([results / name])))
    found = read_results(results, name)
    return draw_figure1(found) if name == "figure1" else draw_figure2(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and draws."""
    parser = argparse.ArgumentParser(description="Draws figures from recorded results.")
    parser.add_argument("figures", nargs="+", choices=["quick", *FIGURES, "all"])
    parser.add_argument("--results", type=Path, help="results/; for quick alone, results/quick/")
    parser.add_argument("--output", type=Path, help="docs/figures/; for quick, docs/quick_a5.png")
    options = parser.parse_args(arguments)
    wanted, results = set(options.figures), options.results or ROOT / "results"
    try:
        for name in FIGURES:
            optional = name == "width" and not (results / name).is_dir()
            if name in wanted or ("all" in wanted and not optional):
                figure = draw(name, results)
                stem = name if is_of_paper(results) else f"{results.name}_{name}"
                for kind in ("png", "pdf"):
                    path = (options.output or ROOT / "docs" / "figures") / f"{stem}.{kind}"
                    save(figure, path)
                    print(path)
        quick = options.results if "quick" in wanted and options.results else results / "quick"
        if "quick" in wanted or ("all" in wanted and quick.is_dir()):
            path = options.output or ROOT / "docs"
            path = path if path.suffix else path / "quick_a5.png"
            save(draw_quick(quick), path, dpi=160)
            print(path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
