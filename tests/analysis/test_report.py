"""The report: its tables in every form, its figures' looks, and the page in a real browser."""

import csv
import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import recorded
from browser import chromium, missing
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from analysis import literature, load, palette, rendering, report
from analysis.grid import grouped
from analysis.page import FULL, Picture, Section, document, within
from analysis.select import Score
from analysis.sheets import Sheet, latex, percent
from raystudy.cli import main
from raystudy.data.noise import NOISES, Noise
from raystudy.design.study import Block, Cell, Study
from raystudy.learn.methods import METHODS
from raystudy.record.ledger import CellHistory

NASTY = r"50% & a_b #1 $x$ {y} ~^\ <i> | naïve ± – ‡ 漢"

# -- quick: forms of a table, looks, published numbers


def sheet(rows: int = 2) -> Sheet:
    told = [[NASTY, percent(Score(0.912, 0.01, 3), bold=True)] for _ in range(rows)]
    return Sheet("t", NASTY, ["method", "0.2"], told, "note " + NASTY)


def test_csv_keeps_text_and_numbers() -> None:
    rows = list(csv.reader(io.StringIO(sheet().to_csv())))
    assert rows[0] == ["method", "0.2"]
    assert rows[1][0] == NASTY
    assert float(rows[1][1]) == pytest.approx(91.2)


def test_markdown_and_html_are_escaped() -> None:
    assert r"\|" in sheet().to_markdown()
    assert "**91.2 ± 1.0**" in sheet().to_markdown()
    page = sheet().to_html()
    assert "<i>" not in page
    assert "<strong>91.2 ± 1.0</strong>" in page


def unsafe(tex: str) -> list[str]:
    """Characters that would end a table or stop LaTeX, outside of commands."""
    plain = re.sub(r"\\[&%$#_{}]|\\[A-Za-z]+|\\\\|\$\\[a-zA-Z]+\$", "", tex)
    return [c for c in plain if c in r"%#$_~^<>|\"" or not c.isascii()]


def test_latex_is_escaped_and_balanced() -> None:
    assert unsafe(latex(NASTY)) == []
    for rows in (2, 60):
        tex = sheet(rows).to_latex()
        for environment in re.findall(r"\\begin\{(\w+)\}", tex):
            assert tex.count(rf"\begin{{{environment}}}") == tex.count(rf"\end{{{environment}}}")
        body = [line for line in tex.splitlines() if line.endswith(r"\\") and "caption" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {1}  # two columns everywhere
        assert tex.count(r"\toprule") == tex.count(r"\midrule") == tex.count(r"\bottomrule") == 1


def test_every_method_has_one_look_of_its_own() -> None:
    assert palette.names() == tuple(sorted(METHODS))
    looks = {(s["color"], s["marker"]) for s in map(palette.style, METHODS)}
    assert len(looks) == len(METHODS)
    colours = set(map(palette.alone, METHODS))
    assert len(colours) == len(METHODS)  # where there is no marker
    assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in colours)
    assert palette.style("ce")["color"] == "black"
    assert palette.style("not_yet_written")["color"]


def test_published_numbers_are_whole_and_in_percent() -> None:
    told = literature.published()
    assert len(told) > 1000
    assert all(0 < p.accuracy <= 100 for p in told)
    assert {p.verified for p in told} <= set(literature.MARKS)
    assert {p.statistic for p in told} <= set(literature.RULE_OF)
    assert {p.method for p in told} <= {"", *METHODS}
    assert all(p.source for p in told)


@pytest.mark.parametrize(
    ("method", "dataset", "noise", "numbers"),
    [
        ("sop_plus", "cifar10", "symmetric", {96.3, 95.5, 94.0}),
        ("sop_plus", "cifar100", "symmetric", {78.8, 75.9, 63.3, 78.49}),  # and a user's rerun of the first
        ("sop", "cifar10", "symmetric", {93.2, 90.1, 86.8, 68.3}),
        ("sop", "cifar100", "symmetric", {74.7, 70.1, 60.3, 30.2}),
        ("volminnet", "cifar100", "symmetric", {64.94, 53.89}),
        ("volminnet", "cifar10", "clean", {92.71}),
        ("t_revision", "clothing1m", "real", {74.18}),
        ("peer_loss", "cifar10", "symmetric", {87.72, 83.81}),
        ("peer_loss", "cifar10n", "human_worst", {82.0, 82.53}),  # the table, and mirrors of the leaderboard
        ("peer_loss", "uci_splice", "binary_conditional", {90.1}),
        ("f_divergence", "clothing1m", "real", {73.09}),
        ("negative_label_smoothing", "cifar10", "symmetric", {93.55}),
        ("negative_label_smoothing", "clothing1m", "real", {74.24}),
    ],
)
def test_a_published_number_is_that_of_its_source(method: str, dataset: str, noise: str, numbers: set[float]) -> None:
    rows = [p for p in literature.published() if (p.method, p.dataset, p.noise) == (method, dataset, noise)]
    assert {p.accuracy for p in rows} == numbers


def test_published_numbers_stand_beside_the_cell_they_belong_to() -> None:
    cell = Cell("dividemix", "cifar10", Noise("symmetric", 0.8))
    rows = [p for p in literature.beside(cell) if "Table 1" in p.source and "DivideMix" in p.source]
    assert {(p.statistic, p.accuracy) for p in rows} == {("best", 93.2), ("last", 92.9)}
    assert all(p.text.endswith("§") for p in rows)  # not checked against the paper
    assert "mlp" in literature.differences("mlp", cell, rows[0])
    assert not literature.differences("preact_resnet18", cell, rows[0])
    assert literature.beside(Cell("dividemix", "cifar10", Noise("symmetric", 0.8, "exclusive"))) != rows
    assert literature.beside(Cell("dividemix", "digits", Noise("symmetric", 0.8))) == []


def test_published_numbers_are_found_by_the_family_of_a_data_set_and_its_noise_as_it_was_run() -> None:
    bare = Cell("coteaching", "cifar10?pad=0&flip=no&mean=0,0,0&std=1,1,1", Noise("pair", 0.45, count="bernoulli"))
    rows = literature.beside(bare)
    assert rows == literature.beside(Cell("coteaching", "cifar10", Noise("pair", 0.45)))
    assert rows
    assert not [p for p in rows if "data set" in literature.differences("cnn9", bare, p)]
    elsewhere = literature.differences("mlp", Cell("coteaching", "digits", Noise("pair", 0.45)), rows[0])
    assert "data set cifar10, ours digits" in elsewhere
    assert not literature.beside(Cell("coteaching", "cifar100", Noise("symmetric", 0.4)))
    blocks = literature.beside(Cell("elr", "cifar100", Noise("asym_block5", 0.4)))
    assert blocks
    assert {p.dataset for p in literature.published() if p.noise == "asymmetric"} == {"cifar10"}


def test_published_numbers_of_labels_that_came_with_the_data_stand_beside_their_cells() -> None:
    """Tables file such noise under names of their own; before, none of these some 400 rows stood anywhere."""

    def found(method: str, dataset: str, noise: Noise) -> list[literature.Published]:
        return literature.beside(Cell(method, dataset, noise))

    worse = found("pes", "cifar10n", Noise("human", 0.0, "worse"))
    assert worse == found("pes", "cifar10", Noise("human", 0.0, "worse"))
    assert {(p.noise, p.rate) for p in worse} == {("human_worst", 0.4021)}
    assert {p.noise for p in found("sop_plus", "cifar100n", Noise("human", 0.0, "noisy"))} == {"human_noisy_fine"}
    assert not found("pes", "cifar10", Noise("human", 0.2, "worse"))  # diluted: nobody published that
    red = found("mentormix", "cnwl_mini_imagenet?size=299", Noise("web", 0.4, "red"))
    assert {(p.noise, p.rate) for p in red} == {("cnwl_red", 0.4)}
    assert {p.dataset for p in found("disc", "clothing1m", Noise("given", 0.0))} == {"clothing1m"}
    assert {p.noise for p in found("pes", "cifar10", Noise("instance", 0.4, "pdn"))} == {"instance_pdn"}
    assert not found("pes", "cifar10", Noise("instance", 0.4, "features"))
    either = [found("disc", "cifar10", Noise("instance", 0.4, v)) for v in ("pdn", "features")]
    assert either[0] == either[1] != []  # DISC's table does not say which
    unsaid = literature.differences("resnet34", Cell("disc", "cifar10", Noise("instance", 0.4, "pdn")), either[0][0])
    assert "instance variant not stated, ours pdn" in unsaid
    rerun = next(p for p in found("sop_plus", "cifar10n", Noise("human", 0.0, "aggre")) if not p.architecture)
    assert "network not stated, ours mlp" in literature.differences(
        "mlp", Cell("sop_plus", "cifar10n", Noise("human", 0.0, "aggre")), rerun
    )
    known = {p.dataset for p in literature.published()}
    assert not literature.beside(Cell("ce", "csv:my.csv", Noise("given", 0.0)), known)  # of no other data set
    names = {p.noise for p in literature.published()} - set(NOISES) - set(literature.OURS)
    assert names == {
        "binary_conditional",
        "clean",
        "instance_cores",
        "asym_block5_pair",
        "confusion_random1",
        "confusion_worst",
        "confusion_noisy_fine",
    }
    assert {kind for kind, _ in literature.OURS.values()} <= set(NOISES)


def test_published_numbers_that_are_inflated_or_chosen_by_clean_labels_say_so() -> None:
    told = [
        p
        for p in literature.published()
        if p.method == "elr_plus" and p.noise in ("symmetric", "asymmetric", "asym_block5")
    ]
    assert told
    assert all("redraws the noise" in p.note for p in told)
    assert not [p for p in literature.published() if "redraws" in p.note and p not in told]
    own = [p for p in literature.published() if p.method == "p_correction" and "yikun2019/PENCIL" in p.source]
    assert own
    assert all("clean_val" in p.note for p in own)


def test_errors_are_turned_into_accuracies() -> None:
    (row,) = [
        p
        for p in literature.published()
        if p.published_as == "ERM"
        and (p.rate, p.statistic, p.metric) == (0.2, "best", "test_error")
        and p.dataset == "cifar10"
    ]
    assert row.accuracy == pytest.approx(87.3)  # printed as an error of 12.7


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = document("<b>", [Section("a", "A & B", "lead", [sheet(), Picture("p", "no picture", "because", None)])])
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "@import" not in page
    assert "<title>&lt;b&gt;</title>" in page
    assert "because" in page


def test_pictures_beyond_the_budget_stay_files_the_most_important_stay_inside() -> None:
    names = ("curves-a", "cost-a", "sieve-a", "ranks")
    pictures = [Picture(n, n, "text", bytes(30_000)) for n in names]  # 40,000 letters each in the page
    sections = [Section("a", "A", "lead", [pictures[0], sheet(), *pictures[1:]]), Section("b", "B", "lead", [])]
    bare = len(document("t", [Section("a", "A", "lead", [sheet()]), sections[1]]).encode())

    def inside(text: str) -> list[str]:
        return re.findall(r'<figure class=picture id="figure-([^"]*)"', text)

    assert within("t", sections, 10**6) == document("t", sections)
    for pictures_held, held in ((3, ["curves-a", "cost-a", "ranks"]), (2, ["cost-a", "ranks"]), (1, ["ranks"])):
        text = within("t", sections, bare + 40_000 * pictures_held + 5_000)
        assert inside(text) == held
        assert len(text.encode()) <= bare + 40_000 * pictures_held + 5_000
        for name in set(names) - set(held):  # a line where it would stand
            line = re.search(rf'<p class=note id="figure-{name}">.*</p>', text)
            assert line is not None
            assert f'href="figures/{name}.png"' in line[0]
            assert f'href="figures/{name}.pdf"' in line[0]
            assert FULL in line[0]
    assert text.index("figure-curves-a") < text.index("table-t") < text.index("figure-ranks")


def test_a_picture_of_256_colours_looks_as_it_was_drawn() -> None:
    figure = Figure(figsize=(3, 2), dpi=150)
    figure.subplots().imshow(np.arange(600).reshape(20, 30), cmap="viridis")
    told, plain = rendering.render(figure)[0], io.BytesIO()
    with rc_context(rendering.RC):
        figure.savefig(plain, format="png")
    with Image.open(io.BytesIO(told)) as ours, Image.open(plain) as theirs:
        assert ours.mode == "P"
        a, b = (np.asarray(x.convert("RGB")).astype(int) for x in (ours, theirs))
    assert a.shape == b.shape
    assert np.abs(a - b).max() < 32  # of 255, in any channel of any dot
    assert (a[b.min(-1) == 255] == 255).all()  # white paper


def test_tables_that_fill_the_page_are_cut_and_link_to_all_their_rows() -> None:
    sections = [Section("a", "A", "lead", [sheet(2000), Picture("ranks", "ranks", "text", bytes(300))])]
    short = len(document("t", sections, 100).encode())
    text = within("t", sections, short + 1000)
    assert len(text.encode()) <= short + 1000
    assert text.count("<tr>") == 101
    assert 'The first 100 of 2000 rows; all: <a href="tables/t.csv">tables/t.csv</a>.' in text
    assert "data:image/png" in text  # there is room again
    assert sheet(2000).to_markdown().count("\n| ") > 2000


def test_a_study_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nothing", "--storage", str(tmp_path)]) == 2
    assert "unknown study" in capsys.readouterr().err


def test_arrays_that_are_broken_count_as_absent(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "k.npz").write_bytes(b"PK\x03\x04 torn")
    assert load.arrays(tmp_path, "k") is None
    assert load.arrays(tmp_path, "other") is None


def test_cells_that_differ_in_more_than_noise_stand_apart() -> None:
    noises = (Noise("symmetric", 0.2), Noise("symmetric", 0.5))
    blocks = (Block(("ce",), ("digits",), noises), Block(("ce",), ("digits",), noises, network="convnet", epochs=5))
    study = Study("g", ("ce",), ("digits",), noises, 1, 1, 2, "mlp", grid=blocks)
    groups = grouped(study, {cell: CellHistory(cell.key) for cell in study.cells()})
    assert [g.title for g in groups] == [
        "digits, symmetric inclusive",
        "digits, symmetric inclusive (convnet, 5 epochs)",
    ]
    assert [list(g.levels) for g in groups] == [["0.2", "0.5"]] * 2
    assert len({g.name for g in groups}) == 2


# -- slow: whole reports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "seen"
    recorded.write(folder, trials=9)
    assert main(["report", "seen", "--storage", str(folder.parent)]) == 0
    return folder


@pytest.mark.slow
def test_a_report_is_whole(folder: Path) -> None:
    out = folder / "report"
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    for kind in (
        "rates",
        "curves",
        "sieve",
        "cost",
        "gap",
        "importance",
        "transition",
        "budget-passes",
        "parallel-elr",
        "surface-elr",
    ):
        for end in ("png", "pdf"):
            assert f"figures/{kind}-digits-symmetric-inclusive.{end}" in names
    assert "figures/agreement-digits-symmetric-inclusive-0.2.png" in names
    for table in (
        "suspects-digits-symmetric-inclusive-0.2",
        "selection",
        "intervals",
        "recommendations",
        "provenance",
        "leaderboard-last10-digits-symmetric-inclusive",
    ):
        for end in ("csv", "md", "tex"):
            assert f"tables/{table}.{end}" in names
    assert not [n for n in names if n.endswith(".new")]
    assert (out / "study.toml").read_text() == (folder / "study.toml").read_text()
    assert "--study study.toml" in (out / "index.html").read_text()
    rows = list(csv.DictReader((out / "tables/leaderboard-last10-digits-symmetric-inclusive.csv").open()))
    assert len(rows) == 9
    assert {"method", "rate", "mean", "std", "n", "low", "high"} <= set(rows[0])


@pytest.mark.slow
def test_the_oracle_is_never_bold_and_always_named(folder: Path) -> None:
    out = folder / "report"
    assert "oracle_test" not in (out / "report.md").read_text().replace("leaderboard-oracle_test", "")
    assert r"\textbf" not in (out / "tables/leaderboard-oracle_test-digits-symmetric-inclusive.tex").read_text()
    assert r"\textbf" in (out / "tables/leaderboard-last10-digits-symmetric-inclusive.tex").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_the_latex_tables_compile(folder: Path) -> None:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder / "report" / "tables", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_every_tab_and_figure_shows_in_a_browser_without_a_network(folder: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.get((folder / "report" / "index.html").as_uri())
        links = driver.find_elements("css selector", "nav a")
        assert [a.text for a in links] == [
            "Overview",
            "Results",
            "Selection",
            "Statistics",
            "Published",
            "Training",
            "Suspects",
            "Search",
            "Cost",
            "Models",
            "Provenance",
        ]
        for link in links:
            link.click()
            shown = [s for s in driver.find_elements("tag name", "section") if s.is_displayed()]
            assert [s.find_element("tag name", "h1").text for s in shown] == [link.text]
            pictures = shown[0].find_elements("tag name", "img")
            assert all(
                driver.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 300", p)
                for p in pictures
            )
            assert all(p.is_displayed() and p.size["width"] > 200 for p in pictures)
            assert shown[0].find_elements("css selector", "table, img, pre")
        head = driver.find_element("css selector", "#table-digests thead th:nth-child(3)")
        driver.execute_script("arguments[0].click()", head)
        wrong = [float(c.text) for c in driver.find_elements("css selector", "#table-digests tbody td:nth-child(3)")]
        assert wrong == sorted(wrong)
        driver.get((folder / "report" / "index.html").as_uri() + "#search")
        assert driver.find_element("id", "search").is_displayed()
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_a_study_that_has_hardly_begun_has_a_report_too(tmp_path: Path) -> None:
    one = tmp_path / "one"
    recorded.write(one, ("dividemix",), (0.2,), trials=1, replicates=0, epochs=1, arrays=False)
    files = report.build(one, tmp_path / "out")
    assert files[0].name == "index.html"
    assert "no trial has left arrays" in files[0].read_text()
    shutil.rmtree(one / "cells")
    assert "0 of 1 cells begun" in report.build(one, tmp_path / "out")[0].read_text()


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded.write(tmp_path / "s", ("ce",), (0.2,), trials=1, replicates=0, epochs=1)
    (tmp_path / "file").write_text("")
    assert main(["report", "s", "--storage", str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert "cannot write the report" in capsys.readouterr().err
    assert set(os.listdir(tmp_path)) == {"file", "s"}
