"""benchmarks/report.py: tables in Markdown, plots; what the READMEs show is up to date."""

from __future__ import annotations

import pytest

from benchmarks import figures, report, results_file, tables
from benchmarks.results_file import ROOT


@pytest.fixture
def results(tmp_path):
    def row(contender, pass_, milliseconds, speedup, kept=""):
        empty = dict.fromkeys(results_file.COLUMNS, "")
        return empty | {
            "device": "cpu", "layer": "emam", "contender": contender, "pass": pass_, "shape": "8x728x19x19",
            "groups": "8", "dtype": "float32", "layout": "contiguous", "threads": "2", "hardware": "a CPU",
            "milliseconds": milliseconds, "speedup": speedup, "kept_bytes": kept, "peak_bytes": kept,
            "peak_extra": kept, "commit": "abc1234", "date": "2025-01-01", "torch": "2.11",
        }  # fmt: skip

    path = tmp_path / "results.csv"
    results_file.write(path, [
        row("reference", "forward", "52.3", "1"), row("collapsed", "forward", "6.7", "7.81", "0"),
        row("reference", "training", "155", "1", "35600000"), row("collapsed", "training", "30.1", "5.15", "1050000"),
        row("copy", "forward", "0.22", "238"),
    ])  # fmt: skip
    return path


def test_report_prints_a_markdown_table(results, capsys):
    assert report.main([str(results)]) == 0
    text = capsys.readouterr().out
    assert "### a CPU, 2 threads: float32, contiguous" in text
    assert "Commit abc1234 (2025-01-01, torch 2.11)." in text
    assert "| emam | 8x728x19x19, G=8 | collapsed | 6.7 | 7.81 | 30.1 | 5.15 | 1.05 | 1.05 | 1.05 |" in text
    assert "| emam | 8x728x19x19, G=8 | copy | 0.22 | 238 |  |  |  |  |  |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_report_draws_a_plot_and_writes_the_table(results, tmp_path):
    pytest.importorskip("matplotlib")
    plot, text = tmp_path / "plot.png", tmp_path / "table.md"
    assert report.main([str(results), "--plot", str(plot), "--out", str(text)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG") and text.read_text().startswith("###")


def test_report_of_a_file_without_rows_fails_in_one_line(tmp_path, capsys):
    results_file.write(tmp_path / "none.csv", [])
    assert report.main([str(tmp_path / "none.csv")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.csv'} has no rows\n"


def test_time_of_an_element_as_maps_grow(results, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn, plot = {}, tmp_path / "growth.png"
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update(figure=figure))
    (row,) = (row for row in results_file.read(results) if row["contender"] == "copy")
    results_file.write(results, [row])
    assert report.main([str(results), "--growth", str(plot)]) == 1
    assert capsys.readouterr().err == "error: nothing to draw: the results have inputs of one size only\n"
    other = row | {"shape": "8x728x38x38", "milliseconds": "0.08"}
    results_file.write(results, [row, other])
    assert report.main([str(results), "--growth", str(plot)]) == 0
    (line,) = drawn["figure"].axes[0].lines
    elements = [8 * 728 * side * side for side in (19, 38)]
    assert list(line.get_xdata()) == elements
    times = float(row["milliseconds"]), 0.08
    assert list(line.get_ydata()) == pytest.approx([1e6 * t / n for t, n in zip(times, elements)])


@pytest.fixture
def shown():
    """The results that the front page and benchmarks/README.md show."""
    return results_file.read(ROOT / "benchmarks/results/cpu.csv")


def test_the_readme_shows_the_table_of_the_results(shown):
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert tables.sections(shown, tables.against_published) in text


def test_table_against_the_published_modules(results, capsys):
    rows = results_file.read(results)
    row = {(row["contender"], row["pass"]): row for row in rows}["reference", "forward"]
    results_file.write(results, [*rows, row | {"contender": "published", "milliseconds": "60", "speedup": "0.8"}])
    assert report.main([str(results), "--published"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[2:] == ["| EMAM | 8x728x19x19, G=8 | published | 60 | 6.7 | 9.76 |  |  |  |  |  |"]


def test_the_chart_on_the_front_page_is_that_of_the_results(shown, tmp_path):
    """To draw it again: python benchmarks/report.py benchmarks/results/cpu.csv --published --chart docs/speed.png"""
    image = pytest.importorskip("PIL.Image")
    numbers = " ".join(row["times_as_fast"] for row in tables.comparisons(shown))
    assert image.open(ROOT / "docs/speed.png").text["Description"] == numbers
    figures.chart(shown, tmp_path / "again.png")
    again = image.open(tmp_path / "again.png")
    assert again.text["Description"] == numbers and again.size == (1600, 1200)


def test_bars_are_as_long_as_the_ratios(shown, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: drawn.append(figure))
    figures.chart(shown, tmp_path / "chart.png")
    bars = [bar.get_width() for axis in drawn[0].axes for bar in axis.patches]
    ratios = [float(row["times_as_fast"]) for row in tables.comparisons(shown)]
    assert sorted(bars) == sorted(ratios) and len(bars) == 72


def test_a_chart_needs_a_published_module(results, tmp_path, capsys):
    assert report.main([str(results), "--chart", str(tmp_path / "chart.png")]) == 1
    assert "nothing to draw: the results have no published module" in capsys.readouterr().err
