from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nccleaner.data.trusted import TrustedRow, read_trusted
from nccleaner.errors import TrustedError


def write(tmp_path, text, name="trusted.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_keys_stay_text_and_labels_default_to_matched(tmp_path):
    table = read_trusted(write(tmp_path, "key,label\n000000012,\n12,0\n"))
    assert table.rows == (
        TrustedRow(2, "key", "000000012", None, None, 1),
        TrustedRow(3, "key", "12", None, None, 0),
    )
    assert table.problems == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.TSV", "\t")])
def test_reads_text_of_any_script_in_both_layouts(tmp_path, encoding, name, separator):
    lines = [("Key", "caption"), ("1", "犬が走る"), ("2", '"two\nlines, ""quoted"""'), ("3", "ё")]
    text = "\r\n".join(separator.join(line) for line in lines)
    rows = read_trusted(write(tmp_path, text, name, encoding)).rows
    assert [row.caption for row in rows] == ["犬が走る", 'two\nlines, "quoted"', "ё"]
    assert [row.row for row in rows] == [2, 3, 4]  # as a spreadsheet counts, not lines of text


def test_rows_with_nothing_in_them_are_passed_over_but_counted(tmp_path):
    table = read_trusted(write(tmp_path, "key,label\n\n1,1\n,\n \n2,1\n\n"))
    assert [(row.row, row.value) for row in table.rows] == [(3, "1"), (6, "2")]
    assert table.problems == ()


def test_parquet_is_read_as_text_and_counts_rows_alike(tmp_path):
    path = tmp_path / "trusted.parquet"
    columns = {
        "key": pa.array(["007", None, "009"]),
        "uid": pa.array([None, "u", None]),
        "label": pa.array([True, False, None]),
        "notes": pa.array([{"a": 1}, None, None]),
    }
    pq.write_table(pa.table(columns), path)
    assert read_trusted(path).rows == (
        TrustedRow(2, "key", "007", None, None, 1),
        TrustedRow(3, "uid", "u", None, None, 0),
        TrustedRow(4, "key", "009", None, None, 1),
    )


def test_the_first_identifier_that_a_row_fills_names_its_pair(tmp_path):
    text = "image,url,uid,key,caption\nx.jpg,v,u,k,c\nx.jpg,v,u,,c\nx.jpg,v, ,,c\nx.jpg,,,,c\n"
    (tmp_path / "x.jpg").touch()
    rows = read_trusted(write(tmp_path, text)).rows
    assert [(row.by, row.value) for row in rows] == [
        *(("key", "k"), ("uid", "u"), ("url", "v")),
        ("image", str(tmp_path.resolve() / "x.jpg")),
    ]


def test_rows_that_name_no_pair_are_reported_by_number(tmp_path):
    text = "key,label,caption\n1,2,c\n,1,c\n3,1,one, two\n4\n5,1.0,c\n6,yes,c\n"
    table = read_trusted(write(tmp_path, text))
    assert [row.value for row in table.rows] == ["5"]
    reasons = {problem.row: problem.reason for problem in table.problems}
    assert reasons == {
        2: "label '2' is neither 1 nor 0",
        3: "names no pair: key, uid, url and image are empty or absent",
        4: "has 4 fields, the header 3; is a caption not in quotes?",
        5: "has 1 fields, the header 3; is a caption not in quotes?",
        7: "label 'yes' is neither 1 nor 0",
    }


def test_images_outside_the_folder_are_refused(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").touch()
    (folder / "sub" / "a.jpg").touch()
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    images = ["sub/a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "no.jpg"]
    images += ["sub/../sub/a.jpg", "a" * 300 + ".jpg", "sub"]
    text = "image,caption\n" + "".join(f"{image},c\n" for image in images) + "sub/a.jpg,\n"
    table = read_trusted(write(folder, text))
    assert [row.row for row in table.rows] == [2, 7]
    assert {row.value for row in table.rows} == {str(folder.resolve() / "sub" / "a.jpg")}
    reasons = {problem.row: problem.reason for problem in table.problems}
    assert all("outside the folder" in reasons[row] for row in (3, 4, 5))
    assert "is not there" in reasons[6]
    assert "cannot be opened" in reasons[8] or "is not there" in reasons[8]
    assert "is not there" in reasons[9]
    assert "without a caption" in reasons[10]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"key,label\n", "holds no rows"),
        (b"key,label\n,\n\n", "holds no rows"),
        (b"name,label\na,1\n", "expected a column key, uid, url or image, found 'name', 'label'"),
        (b"key;label\na;1\n", "found 'key;label'"),
        (b"key,Key\na,b\n", "has 2 columns called key"),
        (b'key,caption\na,"open\nb,c\n', "the row that starts in line 2 cannot be read"),
        (b'key,caption\nx,y\na,"open\nb,"c"\n', "the row that starts in line 3 cannot be read"),
        ("key,caption\na,für\n".encode("latin-1"), "expected text in UTF-8, found byte 0xfc"),
        ("key,caption\na,b\n".encode("utf-16"), "expected text in UTF-8, found byte 0xff"),
        ("key,caption\na,b\n".encode("utf-16-le"), "zero bytes"),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_the_cause(tmp_path, data, said):
    path = tmp_path / "trusted.csv"
    path.write_bytes(data)
    with pytest.raises(TrustedError) as caught:
        read_trusted(path)
    assert said in caught.value.message
    assert caught.value.message.startswith(str(path))
    assert caught.value.next_step


@pytest.mark.parametrize(
    "name", ["no.csv", "no.xlsx", "folder.csv", "broken.parquet", "bin.parquet"]
)
def test_files_of_another_kind_are_refused(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    pq.write_table(pa.table({"key": [b"\xff"]}), tmp_path / "bin.parquet")
    with pytest.raises(TrustedError, match=name):
        read_trusted(tmp_path / name)


def test_of_a_sample_every_row_must_say_what_it_is(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("key,label\na,1\nb,\nc,0\n")

    table = read_trusted(path, label_required=True)

    assert [(row.value, row.label) for row in table.rows] == [("a", 1), ("c", 0)]
    assert [(problem.row, problem.reason) for problem in table.problems] == [(3, "has no label")]
    path.write_text("key\na\n")
    with pytest.raises(TrustedError, match="no column label"):
        read_trusted(path, label_required=True)
