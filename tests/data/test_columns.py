"""Tables of features: what their columns become, fitted on the training rows alone, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raystudy.data import columns, datasets, spec
from raystudy.data.spec import Options
from raystudy.errors import InputError

SMALL = """size,colour,label,split
1,red,a,train
2,blue,b,train
,red,a,train
6,,b,train
3,green,a,test
?,red,b,test
"""


def written(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_what_columns_become(tmp_path: Path) -> None:
    data = columns.read(written(tmp_path, SMALL), Options())
    # size, whether size is missing; colour: "" (missing), blue, red. Median of the training sizes 1, 2, 6.
    assert data.kind == "vectors"
    assert data.x_train.tolist() == [
        [1, 0, 0, 0, 1],
        [2, 0, 0, 1, 0],
        [2, 1, 0, 0, 1],
        [6, 0, 1, 0, 0],
    ]
    assert data.x_test.tolist() == [[3, 0, 0, 0, 0], [2, 1, 0, 0, 1]]  # green is a colour of no training row
    assert data.y_train.tolist() == [0, 1, 0, 1]
    assert data.classes == ("a", "b")
    assert not data.truth
    assert (
        data.notes[0] == "columns 1 of numbers and 1 of categories, as 5 features; missing values in 2 (size, colour)"
    )


def test_columns_become_what_scikit_learn_makes_of_them(tmp_path: Path) -> None:
    """Rows are made from what was learnt, as a kept model makes them, and not by scikit-learn itself."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(1)
    n = 600
    frame = pd.DataFrame({"u": rng.normal(size=n), "v": rng.integers(0, 5, n).astype(float)})
    frame["many"] = [f"m{i}" for i in np.minimum(rng.geometric(0.02, n), 150)]  # more than a hundred, some of them rare
    frame["few"] = rng.choice(["x", "y"], n)
    frame.loc[rng.random(n) < 0.2, "u"] = np.nan
    frame.loc[rng.random(n) < 0.1, "few"] = None
    split = np.where(np.arange(n) < 450, "train", "test")
    frame.assign(label=np.arange(n) % 2, split=split).to_csv(tmp_path / "t.csv", index=False)
    data = columns.read(tmp_path / "t.csv", Options())
    told = frame.assign(few=frame["few"].fillna("").astype(object), many=frame["many"].astype(object))
    coder = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100)
    steps = [("n", SimpleImputer(strategy="median", add_indicator=True), ["u", "v"]), ("c", coder, ["many", "few"])]
    theirs = ColumnTransformer(steps, sparse_threshold=0).fit(told[:450])
    np.testing.assert_allclose(data.x_train.numpy(), theirs.transform(told[:450]).astype(np.float32))
    np.testing.assert_allclose(data.x_test.numpy(), theirs.transform(told[450:]).astype(np.float32))
    x, labels = columns.rows(tmp_path / "t.csv", data.columns)  # and once more, as a model's card has it
    assert np.array_equal(x[450:], data.x_test.numpy())
    assert labels[:2] == ["0", "1"]
    assert columns.width(data.columns) == x.shape[1]


def test_nothing_is_learnt_from_test_rows(tmp_path: Path) -> None:
    other = SMALL.replace("3,green,a,test", "900,violet,a,test")
    a, b = (columns.read(written(tmp_path, text, f"{i}.csv"), Options()) for i, text in enumerate((SMALL, other)))
    assert a.x_train.equal(b.x_train)
    assert (a.mean, a.std) == (b.mean, b.std)
    assert a.digest != b.digest


def test_a_split_is_made_said_and_keeps_equal_rows_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"u": rng.integers(0, 300, 1000), "v": rng.integers(0, 2, 1000), "label": np.arange(1000) % 2})
    table.to_csv(tmp_path / "t.csv", index=False)
    data = columns.read(tmp_path / "t.csv", Options())
    assert 120 < len(data.y_test) < 280  # a fifth
    assert any(
        note.startswith(f"no column split: the test set is {len(data.y_test)} of 1,000 rows") for note in data.notes
    )
    train, test = ({tuple(row) for row in part.tolist()} for part in (data.x_train, data.x_test))
    assert not train & test


def test_csv_and_parquet_are_the_same_data(tmp_path: Path) -> None:
    frame = pd.read_csv(written(tmp_path, SMALL.replace("?", "")))
    frame.to_parquet(tmp_path / "t.parquet")
    a, b = (datasets.load(f"{kind}:{tmp_path}/t.{kind}") for kind in ("csv", "parquet"))
    assert a.x_train.equal(b.x_train)
    assert a.digest == b.digest


def test_known_truth_and_validation(tmp_path: Path) -> None:
    text = "x,y,clean_label,split\n1,a,a,train\n2,b,a,train\n3,b,b,train\n4,a,b,test\n5,a,a,val\n"
    data = columns.read(written(tmp_path, text), Options(target="y"))
    assert data.truth
    assert data.y_train.tolist() == [0, 0, 1]
    assert data.label_sets["given"].tolist() == [0, 1, 1]
    assert data.y_test.tolist() == [1]  # scored by the clean label
    assert data.extra["val"][1].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("x,y\n1,a\n", Options(), r"has no column 'label', the labels; name another with target=COLUMN, the file has: x, y"),
        ("label\na\nb\n", Options(), r"has no column beside label; the others are the features"),
        ("x,label\n1,\n2,b\n", Options(), r"t.csv, line 2: label is empty"),
        ("x,label,split\n1,a,train\ninf,b,test\n2,b,train\n", Options(), r"t.csv, line 3: x is inf; a number must be finite"),
        ("x,x,label\n1,2,a\n3,4,b\n", Options(), r"has 2 columns 'x'"),
        ("x,label\n1,a\n2,a\n", Options(), r"holds one class only"),
        (SMALL, Options(drop=("sice",)), r"unknown column to drop .* 'sice'; did you mean 'size'"),
        ("x,label\n1,a,7\n", Options(), r"line 2: has 3 fields, the header has 2"),
        ("name,label\n" + "".join(f"n{i},{i % 2}\n" for i in range(500)), Options(), r"column 'name' holds .* drop=name"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, text: str, options: Options, words: str) -> None:
    with pytest.raises(InputError, match=words) as told:
        columns.read(written(tmp_path, text), options)
    assert "\n" not in str(told.value)


def test_how_a_table_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = spec.located("csv:t.csv?target=kind&drop=id,when")
    assert text == f"csv:{tmp_path}/t.csv?target=kind&drop=id,when"
    assert spec.parse(text)[1] == Options(target="kind", drop=("id", "when"))
    written(tmp_path, SMALL)
    for name, words in (
        ("digits?target=x", "data set 'digits' has no option target: it is for tables"),
        ("csv:t.csv?size=8", "has no option size: it is for sets of image files"),
        ("csv:t.csv?flip=yes", "has no option flip"),
        ("parquet:t.csv", "parquet: takes a .parquet file"),
        ("csv:u.csv", "no such file; csv: takes the path of a table"),
    ):
        with pytest.raises(InputError, match=words):
            datasets.load(name)


def test_a_column_of_labels_is_named_once(tmp_path: Path) -> None:
    table = written(tmp_path, SMALL)
    for options, why in (
        (Options(clean="label"), "clean=label is the column of given labels"),
        (Options(drop=("label",)), "drop=label is the column of given labels"),
    ):
        with pytest.raises(InputError, match=why):
            columns.read(table, options)
