"""Details of star files: where quotes and comments begin, where a table ends, and which rows are broken."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipose.errors import ConfigError, FileWarning
from equipose.io.starfiles import read_star, star_text

OPTICS = "\n# version 30001\n\ndata_optics\n\nloop_ \n_rlnOpticsGroup #1 \n_rlnVoltage #2 \n1 300.0 \n\n"
HEAD = OPTICS + "\ndata_particles\n\nloop_ \n"
LABELS = "_rlnImageName #1 \n_rlnDefocusU #2 \n_rlnTheirs #3 \n"


def read(path: Path, rows: str, labels: str = LABELS, as_text: bool = False) -> pd.DataFrame:
    (path / "a.star").write_bytes((HEAD + labels + rows).encode())
    return read_star(path / "a.star", as_text)["particles"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("Bob's_grid", "Bob's_grid"),
        ('a"b', 'a"b'),
        ("a#b", "a#b"),
        ("a#", "a#"),
        ('"two words"', "two words"),
        ("'two words'", "two words"),
        ('"Bob\'s grid"', "Bob's grid"),
        ("'say \"hi\" now'", 'say "hi" now'),
        ('"a\a" b"', 'a" b'),  # RELION's own escape
        ('"a"b"', 'a"b'),  # only a quote before a blank ends the value
        ('""', ""),
        ('"#1"', "#1"),
        ("[1,1,0]", "[1,1,0]"),
        ("é", "é"),
        ("0071", "0071"),
        ("1.25e-09", "1.25e-09"),
        ("nan", "nan"),
        ("None", "None"),
        ("NA", "NA"),
    ],
)
def test_a_value_is_kept_to_the_letter_and_written_so_that_it_is_read_again(
    tmp_path: Path, written: str, value: str
) -> None:
    table = read(tmp_path, f"1@a.mrcs 2.5 {written} \n2@a.mrcs 3.5 x \n", as_text=True)
    assert list(table["rlnTheirs"]) == [value, "x"]
    (tmp_path / "b.star").write_text(star_text({"particles": table}))
    pd.testing.assert_frame_equal(read_star(tmp_path / "b.star", as_text=True)["particles"], table)


def test_numbers_are_numbers_and_names_that_look_like_them_are_names(tmp_path: Path) -> None:
    labels = "_rlnMicrographName #1 \n_rlnDefocusU #2 \n_rlnOpticsGroup #3 \n"
    table = read(tmp_path, "0071 1.5e4 2 \n0072 .5 3 \n", labels)
    assert list(table["rlnMicrographName"]) == ["0071", "0072"]
    assert list(table["rlnDefocusU"]) == [15000.0, 0.5] and list(table["rlnOpticsGroup"]) == [2, 3]
    assert table["rlnOpticsGroup"].dtype == np.int64


def test_a_column_whose_later_rows_are_no_numbers_is_text_throughout(tmp_path: Path) -> None:
    rows = "".join(f"{row}@a.mrcs 1.5 {row} \n" for row in range(2000)) + "9@a.mrcs 1.5 unknown \n"
    table = read(tmp_path, rows)
    assert table["rlnTheirs"].iloc[-1] == "unknown" and table["rlnTheirs"].iloc[0] == "0"
    assert table["rlnDefocusU"].dtype == np.float64


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n"])
def test_line_ends_of_any_system_are_read(tmp_path: Path, ends: str) -> None:
    text = (HEAD + LABELS + "1@a.mrcs 2.5 x \n2@a.mrcs 3.5 y \n").replace("\n", ends)
    (tmp_path / "a.star").write_bytes(b"\xef\xbb\xbf" + text.encode())
    tables = read_star(tmp_path / "a.star")
    assert list(tables["particles"]["rlnTheirs"]) == ["x", "y"] and list(tables["optics"]["rlnVoltage"]) == [300.0]


def test_what_may_stand_between_the_parts_of_a_table_is_passed_over(tmp_path: Path) -> None:
    text = "data_particles # theirs\n\n# a comment\nloop_\n\n  \n_rlnImageName\n# one more\n_rlnDefocusU #2\n\n\n"
    (tmp_path / "a.star").write_text(text + "\t1@a.mrcs\t2.5   # a remark\n  2@a.mrcs 3.5")
    table = read_star(tmp_path / "a.star")["particles"]
    assert list(table["rlnImageName"]) == ["1@a.mrcs", "2@a.mrcs"] and list(table["rlnDefocusU"]) == [2.5, 3.5]


def test_a_block_of_single_values_is_a_table_of_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_general\n\n_rlnA 1\n_rlnB 'x y'  # why\n\ndata_optics\n_rlnVoltage 300.0\n")
    tables = read_star(tmp_path / "a.star")
    assert dict(tables["general"].iloc[0]) == {"rlnA": 1, "rlnB": "x y"} and list(tables["optics"]["rlnVoltage"]) == [
        300
    ]
    text = read_star(tmp_path / "a.star", as_text=True)["optics"]
    assert list(text["rlnVoltage"]) == ["300.0"]


def test_an_empty_line_ends_a_table_and_what_follows_is_said_to_be_left_out(tmp_path: Path) -> None:
    with pytest.warns(FileWarning, match=r"empty line before line 20 ends table data_particles.* 2 rows after it"):
        table = read(tmp_path, "1@a.mrcs 2.5 x \n\n2@a.mrcs 3.5 y \n3@a.mrcs 3.5 y \n")
    assert list(table["rlnImageName"]) == ["1@a.mrcs"]


def test_of_two_tables_of_one_name_the_first_counts_and_the_other_is_said(tmp_path: Path) -> None:
    """Files joined by `cat`. RELION 3.1.3 reads the first one, without a word."""
    rows = "1@a.mrcs 2.5 x \n\n\ndata_particles\n\nloop_\n_rlnImageName\n2@a.mrcs\n3@a.mrcs\n"
    with pytest.warns(FileWarning, match="has table data_particles again: the first counts.* and 2 rows are left out"):
        assert list(read(tmp_path, rows)["rlnImageName"]) == ["1@a.mrcs"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1@a.mrcs 2.5 x \n2@a.mrcs 2.5 \n", "line 19 has 2 values, and its table has 3 columns: mend the line$"),
        ("1@a.mrcs 2.5 x \n2@a b.mrcs 2.5 x \n", "line 19 has 4 values.* blanks in it must stand in quotes"),
        ("1@a.mrcs 2.5 x y \n", "line 18 has 4 values"),
        ("1@a.mrcs 2.5 'x \n", "line 18 has a quote that does not end"),
        ("1@a.mrcs 2.5 'x' \n2@a.mrcs 2.5\n", "line 19 has 2 values"),
        ("1@a.mrcs 2.5 x\0y \n", "bytes of zero"),
        ("1@a.mrcs 2.5 x \ndata_other\n", "line 19, data_other, follows the rows.* put an empty line before it"),
        ("1@a.mrcs 2.5 'x' \ndata_other\n", "line 19, data_other, follows the rows"),
        ("rlnAnglePsi #4 \n1@a.mrcs 2.5 x 3 \n", "line 18 is a label without its underscore: write _rlnAnglePsi$"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, rows)


@pytest.mark.parametrize("bad", ["2@a.mrcs 2.5 \n", "2@a.mrcs 2.5 x y \n", "2@a.mrcs 2.5 x y z \n"])
def test_a_broken_row_after_many_sound_ones_is_found(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ConfigError, match="line 3018 has"):
        read(tmp_path, "1@a.mrcs 2.5 x \n" * 3000 + bad)


@pytest.mark.parametrize("word", ["", "loop"])
def test_a_table_without_its_loop_is_refused_by_the_line(tmp_path: Path, word: str) -> None:
    text = f"data_particles\n\n{word}\n_rlnImageName #1 \n_rlnDefocusU #2 \n1@a.mrcs 2.5 \n"
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(ConfigError, match=f"line {3 if word else 6} is no label: write a line loop_ before"):
        read_star(tmp_path / "a.star")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table data_particles has the column rlnDefocusU twice"):
        read(tmp_path, "1 2 3\n", "_rlnImageName #1\n_rlnDefocusU #2\n_rlnDefocusU #3\n")


def test_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_bytes((HEAD + LABELS).encode("utf-16"))
    with pytest.raises(ConfigError, match="UTF-16"):
        read_star(tmp_path / "a.star")


def test_numbers_keep_their_digits(tmp_path: Path) -> None:
    values = pd.DataFrame({"a": [1e-9, 123456.789], "b": [0.25, -180.0], "c": [1, 2], "d": [1 / 3, 2 / 3]})
    (tmp_path / "a.star").write_text(star_text({"x": values}))
    table = read_star(tmp_path / "a.star")["x"]
    np.testing.assert_allclose(table.to_numpy(float), values.to_numpy(float), rtol=1e-6)
    assert "\n1e-09 0.250000 1 0.3333333333 \n" in (tmp_path / "a.star").read_text()


def test_a_value_with_a_line_end_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match="has a line end"):
        star_text({"x": pd.DataFrame({"a": ["b\nc"]})})


def test_identities_of_twenty_digits_keep_them(tmp_path: Path) -> None:
    """cryoSPARC's uids fill 64 bits: half of them are above the largest signed integer."""
    uids = [2**64 - 1, 2**63, 10**15, 17]
    (tmp_path / "a.star").write_text(star_text({"x": pd.DataFrame({"ucsfUid": np.array(uids, np.uint64)})}))
    for as_text in (True, False):
        table = read_star(tmp_path / "a.star", as_text)["x"]
        assert list(map(int, table["ucsfUid"])) == uids
        (tmp_path / "b.star").write_text(star_text({"x": table}))
        assert (tmp_path / "b.star").read_text() == (tmp_path / "a.star").read_text()


def test_a_first_row_that_begins_like_a_table_is_a_row(tmp_path: Path) -> None:
    """RELION 3.1.3 ends labels at the first line without `_` or `#`, whatever that is (metadata_table.cpp)."""
    found = read(tmp_path, "data_2023/1@a.mrcs 1.0 x \n2@a.mrcs 2.0 y \n")
    assert list(found["rlnImageName"]) == ["data_2023/1@a.mrcs", "2@a.mrcs"]
    tables = "data_empty\nloop_\n_rlnImageName #1\ndata_next # a comment\nloop_\n_rlnOther\n1\n"
    (tmp_path / "b.star").write_text(tables)
    found = read_star(tmp_path / "b.star")
    assert len(found["empty"]) == 0 and list(found["next"]["rlnOther"]) == [1]
