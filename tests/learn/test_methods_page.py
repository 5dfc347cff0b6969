"""docs/methods.md is what its command makes, and says what every hyperparameter means."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from raystudy.learn.methods import METHODS
from raystudy.learn.point import hyperparameters

SCRIPT = Path(__file__).parents[2] / "docs" / "make_methods.py"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_not_is_told(maker, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(maker, "PAGE", tmp_path / "methods.md")
    for text in (None, maker.page().replace("ce", "ec", 1)):
        if text is not None:
            maker.PAGE.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["make_methods.py", "--check"])
        assert maker.main() == 1
        assert "run python docs/make_methods.py" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["make_methods.py"])
    assert maker.main() == 0
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_hyperparameter_has_a_meaning(maker, method: str) -> None:
    told = maker.meanings(METHODS[method])
    for name in hyperparameters(method):
        assert len(told.get(name, "")) >= 8, (
            f"{name}: {told.get(name)!r}; say it in the class docstring as ``{name}``: ..."
        )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_page_says_whose_each_recipe_is(maker, method: str) -> None:
    loaded = maker.space.load(method)
    lines = maker.section(method).splitlines()
    for name, told in {"in general": loaded.recipe, **loaded.recipes}.items():
        assert any(x.startswith(f"| {name} | {(loaded.recipe | told)['source']} | ") for x in lines)


def test_meanings_are_read_off_the_docstring(maker) -> None:
    class Sample:
        """Net of width ``wide``.

        ``alpha``: strength of Beta(a, b), see ``mix``. ``early``, ``late``: fractions of
        the epochs; ``beta``: a weight.
        """

    assert maker.meanings(Sample) == {
        "wide": "Net of width ``wide``",
        "alpha": "strength of Beta(a, b), see ``mix``",
        "mix": "``alpha``: strength of Beta(a, b), see ``mix``",
        "early": "fractions of the epochs",
        "late": "fractions of the epochs",
        "beta": "a weight",
    }
