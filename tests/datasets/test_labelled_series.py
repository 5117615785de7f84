"""Series with classes from .ts files, tables and archives: values against what was written, mistakes by their line."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.labelled_series import find_set, read_series
from tests.generated_series import ramps, write_ts

TS = """# a comment
@problemName small
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength true
@seriesLength 3
@classLabel true up down
@data
1,2,3:4,5,6:up
-1,2.5,3e2:4,5,6:down
"""
VALUES = [[[1, 4], [2, 5], [3, 6]], [[-1, 4], [2.5, 5], [300, 6]]]


def write(folder: Path, text: str | bytes, name: str = "Small_TRAIN.ts") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("@dimensions 2\n", "").replace("@seriesLength 3\n", ""),
        lambda text: text.replace("@classLabel", "@CLASSLABEL").replace("false", "False"),
        lambda text: text.replace(",", ", ").replace(":", " : "),
    ],
    ids=["plain", "crlf", "bom", "both", "no last end", "empty lines", "less header", "case", "spaces"],
)
def test_ts_files_have_the_values_that_were_written(tmp_path: Path, change) -> None:
    series = read_series(write(tmp_path, change(TS)))
    np.testing.assert_array_equal(series.values, VALUES)
    assert series.labels == ["up", "down"]
    assert series.classes == ("up", "down")
    line = 1 + [text.startswith("-1") for text in change(TS).split("\n")].index(True)
    assert series.where(1).endswith(f"Small_TRAIN.ts:{line}")


def test_series_of_different_lengths_and_missing_values_are_read_as_they_are(tmp_path: Path) -> None:
    text = TS.replace("@equalLength true\n@seriesLength 3", "@equalLength false").replace(
        "1,2,3:4,5,6:up", "?,2:3,NaN:up"
    )
    series = read_series(write(tmp_path, text))
    np.testing.assert_array_equal(series.values[0], [[np.nan, 3], [2, np.nan]])
    assert [len(values) for values in series.values] == [2, 3]


# Each: what is changed, into what, the line, and a part of the message.
TS_MISTAKES = {
    "cut in the last values": (
        "5,6:down\n",
        "5,",
        12,
        r"'4,5,' is not a class of .*; the file may be cut",
    ),
    "cut in a channel": (":4,5,6:down\n", "", 12, r"is not a class of @classLabel .*cut short"),
    "cut in the label": (":down\n", ":do", 12, "'do' is not a class of @classLabel .*cut short"),
    "cut in the header": (TS[TS.index("@classLabel") :], "", 8, "ends without a line @data; it is cut short"),
    "wrong label": (":up", ":sideways", 11, r"'sideways' is not a class of @classLabel \(up, down\)$"),
    "no label": ("6:up", "6", 11, "'4,5,6' is not a class"),
    "channels of two lengths": ("4,5,6:up", "4,5:up", 11, "channel 2 has 2 values, where channel 1 has 3"),
    "a channel less": ("1,2,3:4,5,6:up", "1,2,3:up", 11, "1 channels, where .* 2"),
    "a channel more": ("6:down", "6:7,8,9:down", 12, "3 channels, where .* 2"),
    "another length": ("1,2,3:4,5,6:up", "1,2:4,5:up", 11, "2 values a channel, where @equalLength asks for 3"),
    "text": ("2.5", "two", 12, "'two' in channel 1 is not a number"),
    "an empty cell in a row of text": ("2.5", "2.5.1", 12, "'2.5.1' in channel 1 is not a number"),
    "underscore": ("2.5", "2_5", 12, "'2_5' in channel 1 is not a number"),
    "infinite": ("2.5", "inf", 12, "value 2 of channel 1 is not finite"),
    "no classes": ("true up down", "false", 9, "@classLabel false: the series have no classes"),
    "classes without names": ("true up down", "true", 9, "@classLabel true: names no class"),
    "no line of classes": ("@classLabel true up down\n", "", 9, "no line @classLabel"),
    "regression": ("@classLabel true up down", "@targetLabel true", 9, "a set for regression is not read"),
    "time stamps": ("@timeStamps false", "@timeStamps true", 3, "series with time stamps is not read"),
    "no @data": ("@data\n", "", 10, "values before the line @data"),
    "dimensions in words": ("@dimensions 2", "@dimensions two", 6, "needs a whole number"),
    "a raised digit": ("@dimensions 2", "@dimensions ²", 6, "needs a whole number"),
    "no dimension": ("@dimensions 2", "@dimensions 0", 6, "needs a whole number above 0"),
    "a word without letters": ("@timeStamps false", "@", 3, "no word after @"),
    "a class twice": ("true up down", "true up down up", 9, "names 'up' twice"),
    "too large": ("2.5", "1e39", 12, "value 2 of channel 1 is not finite in 32 bits"),
}


@pytest.mark.parametrize("name", TS_MISTAKES)
def test_a_mistake_in_a_ts_file_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    before, after, line, message = TS_MISTAKES[name]
    assert before in TS
    path = write(tmp_path, TS.replace(before, after, 1))
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}:{line}: .*{message}") as caught:
        read_series(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TS[: TS.index("1,2,3")], "has no series"),
        ("", "is empty"),
        (b"\x00\x01", "is binary"),
        (b"\xff\xfe1", "is binary"),
    ],
    ids=["no series", "empty", "binary", "another encoding"],
)
def test_a_file_without_series_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))} {message}"):
        read_series(path)


# --- tables and archives ---------------------------------------------------------------------------------------------

STEPS = "series,label,x,y\na,up,1,4\na,up,2,5\na,up,3,6\nb,down,-1,4\nb,down,2.5,5\nb,down,3e2,6\n"
ROWS = "label;1;2;3\n2;1;2;\n10;4;5;6\n"


def write_layouts(folder: Path) -> dict[str, Path]:
    """The two series in every layout that can hold them."""
    names, labels = ["a"] * 3 + ["b"] * 3, ["up"] * 3 + ["down"] * 3
    x, y = np.array(VALUES, float).reshape(-1, 2).T
    columns = {"series": names, "label": labels, "x": x, "y": y}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "Small_TRAIN.parquet")
    np.savez(folder / "Small_TRAIN.npz", series=np.array(VALUES, np.float32), labels=np.array(["up", "down"]))
    write(folder, STEPS, "Small_TRAIN.csv")
    return {kind: folder / f"Small_TRAIN.{kind}" for kind in ("csv", "parquet", "npz")}


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_every_layout_has_the_same_series(tmp_path: Path, kind: str) -> None:
    series = read_series(write_layouts(tmp_path)[kind])
    np.testing.assert_array_equal(series.values, VALUES)
    assert series.labels == ["up", "down"]
    assert series.classes == ("down", "up")
    if kind == "csv":
        assert series.where(1, step=2).endswith(":7")


def test_a_table_with_a_series_in_each_row_may_have_shorter_ones(tmp_path: Path) -> None:
    series = read_series(write(tmp_path, ROWS, "Rows_TRAIN.csv"))
    assert [values[:, 0].tolist() for values in series.values] == [[1, 2], [4, 5, 6]]
    assert series.classes == ("2", "10")


def test_an_archive_of_arrays_may_name_lengths(tmp_path: Path) -> None:
    path = tmp_path / "Small_TRAIN.npz"
    np.savez(path, series=np.arange(12).reshape(2, 6), labels=[3, 1], lengths=[6, 2])
    series = read_series(path)
    assert [values[:, 0].tolist() for values in series.values] == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert series.classes == ("1", "3")


CSV_MISTAKES = {
    "text": (STEPS, "2.5", "two", ":6", "'two' in column 'x' is not a number"),
    "underscore": (STEPS, "2.5", "2_5", ":6", "'2_5' in column 'x' is not a number"),
    "infinite": (STEPS, "2.5", "-inf", ":6", "the number in column 'x' is not finite"),
    "a cell less": (STEPS, "2.5,5", "2.5", ":6", "3 cells, where the first line has 4; the file may be cut short"),
    "no label column": (STEPS, "label", "class", "", "unknown column 'label'"),
    "a class within a series": (STEPS, "b,down,2.5", "b,up,2.5", ":6", "label 'up' in a series of 'down'"),
    "a series that goes on": (STEPS, "b,down,3e2", "a,down,3e2", ":7", "series 'a' goes on behind another"),
    "a name twice": (STEPS, "x,y", "x,x", ":1", "two columns are called 'x'"),
    "no channel": ("series,label\na,up\n", "up", "up", "", "no column beside series and label"),
    "a row without a value": (ROWS, "2;1;2;", "2;;;", ":2", "a series without a value"),
    "no label": (ROWS, "\n10;4", "\n;4", ":3", "a series without a label"),
    "no series": (STEPS, "b,down,2.5", ",down,2.5", ":6", "no name in column 'series'"),
    "too large": (STEPS, "2.5", "1e39", ":6", "the number in column 'x' is not finite in 32 bits"),
    "text says which columns hold numbers": (
        STEPS,
        "2.5",
        "two",
        ":6",
        "'two' in column 'x' is not a number; all but series",
    ),
    "header alone": ("label,1\n", "label", "label", " ", "has no row of values"),
}


@pytest.mark.parametrize("name", CSV_MISTAKES)
def test_a_mistake_in_a_csv_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    text, before, after, line, message = CSV_MISTAKES[name]
    path = write(tmp_path, text.replace(before, after, 1), "Small_TRAIN.csv")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}{line}:? ?{re.escape(message)}"):
        read_series(path)


NPZ_MISTAKES = {
    "labels of another count": ({"labels": ["a"]}, r"has `series` of float64 \[2, 3\] and `labels` \[1\]"),
    "text": ({"series": [["a"], ["b"]]}, "not numbers"),
    "a length too long": ({"lengths": [3, 4]}, "series 2: a length of 4, not 1 to 3"),
    "a length of 0": ({"lengths": [0, 3]}, "series 1: a length of 0"),
    "lengths with fractions": ({"lengths": [1.5, 2.0]}, "has `lengths` of float64"),
    "infinite": ({"series": [[0.0, np.inf, 1], [1, 2, 3]]}, "series 1: a value that is not finite"),
    "no labels": ({"labels": None}, "lacks the array 'labels'"),
    "an empty label": ({"labels": ["a", ""]}, "series 2: a series without a label"),
    "no step": ({"series": np.ones((2, 0))}, r"has `series` of float64 \[2, 0\]"),
    "no channel": ({"series": np.ones((2, 3, 0))}, r"has `series` of float64 \[2, 3, 0\]"),
    "too large": ({"series": [[0.0, 1e39, 1], [1, 2, 3]]}, "series 1: a value that is not finite in 32 bits"),
}


@pytest.mark.parametrize("name", NPZ_MISTAKES)
def test_a_mistake_in_an_archive_of_arrays_is_one_line(tmp_path: Path, name: str) -> None:
    arrays, message = NPZ_MISTAKES[name]
    whole = {"series": np.ones((2, 3)), "labels": ["a", "b"]} | arrays
    path = tmp_path / "Small_TRAIN.npz"
    np.savez(path, **{key: np.array(value) for key, value in whole.items() if value is not None})
    with pytest.raises(ConfigError, match=message):
        read_series(path)


def test_whole_numbers_of_a_parquet_file_name_classes_as_those_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "Small_TRAIN.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"label": [1, 2, None], "1": [1.0, 2.0, 3.0]}), path)
    with pytest.raises(ConfigError, match="series 3: a series without a label"):
        read_series(path)
    pyarrow.parquet.write_table(pyarrow.table({"label": [1, 2, 10], "1": [1.0, 2.0, 3.0]}), path)
    assert read_series(path).classes == ("1", "2", "10")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_layouts(tmp_path)["parquet"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))} is not a whole Parquet file"):
        read_series(path)


# --- where a set lies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "time_series", "Multivariate_ts", "Univariate_ts"])
def test_a_set_is_found_by_its_name_below_the_data_folder(tmp_path: Path, folder: str) -> None:
    for split in ("TRAIN", "TEST"):
        write_ts(tmp_path / folder / "Small" / f"Small_{split}.ts", ramps(3, (3, 3), 1, 0))
        write_ts(tmp_path / folder / "Small" / f"Small_eq_{split}.ts", ramps(3, (3, 3), 1, 0))
    pair = tuple(tmp_path / folder / "Small" / f"Small_{split}.ts" for split in ("TRAIN", "TEST"))
    assert find_set("Small", str(tmp_path)) == pair
    for path in (pair[0].parent, pair[0], pair[1], pair[0].parent / "Small"):
        assert find_set(str(path)) == pair


def test_a_set_that_is_not_there_or_not_one_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.path: 'Small' has no NAME_TRAIN .*timeseriesclassification.com"):
        find_set("Small", str(tmp_path))
    write_ts(tmp_path / "Small" / "A_TRAIN.ts", ramps(3, (3, 3), 1, 0))
    with pytest.raises(ConfigError, match=r"A_TEST\.ts is missing"):
        find_set("Small", str(tmp_path))
    write(tmp_path / "Small", STEPS, "B_TRAIN.csv")
    with pytest.raises(ConfigError, match=r"Small has A_TRAIN.ts, B_TRAIN.csv; name the one"):
        find_set("Small", str(tmp_path))
    with pytest.raises(ConfigError, match=r"neither NAME_TRAIN\.csv nor NAME_TEST\.csv"):
        find_set(str(write(tmp_path, STEPS, "other.csv")))


# --- real sets, and another reader -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sets in aeon's wheel, which is fetched without what it depends on."""
    folder = tmp_path_factory.mktemp("aeon")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "aeon==1.6.0"]
    if subprocess.run(fetch, capture_output=True).returncode:
        pytest.skip("aeon's wheel, which has real sets, is not to be had")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.endswith(".ts")])
    return folder / "aeon" / "datasets" / "data"


SHIPPED = {
    "ArrowHead": (36, 175, 1, 3),
    "BasicMotions": (40, 40, 6, 4),
    "GunPoint": (50, 150, 1, 2),
    "ItalyPowerDemand": (67, 1029, 1, 2),
    "JapaneseVowels": (270, 370, 12, 9),
    "OSULeaf": (200, 242, 1, 6),
}
"""(Training series, test series, channels, classes), as the archive's page of each set has them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_sets_of_the_archive_have_the_numbers_of_their_files(shipped: Path, name: str) -> None:
    train, test, channels, classes = SHIPPED[name]
    for split, count in (("TRAIN", train), ("TEST", test)):
        path = shipped / name / f"{name}_{split}.ts"
        series = read_series(path)
        assert (len(series.values), len(series.classes)) == (count, classes)
        rows = [row for row in path.read_text().lower().split("@data")[1].split("\n") if row.strip()]
        for row, values, label in zip(rows, series.values, series.labels, strict=True):
            *parts, written = row.split(":")
            assert label.lower() == written.strip()
            np.testing.assert_array_equal(values, np.array([part.split(",") for part in parts], float).T)
            assert values.shape[1] == channels


def test_the_sets_that_aeon_ships_are_read_as_aeon_reads_them() -> None:
    pytest.importorskip("aeon", reason="aeon, whose reader and sets this compares with, is not installed")
    import aeon.datasets

    folder, compared = Path(aeon.datasets.__file__).parent / "data", 0
    for path in sorted(folder.glob("*/*_T*.ts")):
        header = path.read_text(encoding="utf-8").lower().partition("@data")[0]
        if "@targetlabel true" in header or "@timestamps true" in header or "@classlabel false" in header:
            continue
        values, labels = aeon.datasets.load_from_ts_file(str(path))
        series = read_series(path)
        assert [label.lower() for label in series.labels] == list(labels), path
        for ours, theirs in zip(series.values, values, strict=True):
            np.testing.assert_array_equal(ours.T, theirs)
        compared += 1
    assert compared >= 4
