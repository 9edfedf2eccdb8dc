import gzip
import json
from pathlib import Path
from urllib.request import Request

import pandas as pd
import pytest

from nccleaner.data.url_lists import UrlList, read_url_list
from nccleaner.errors import InputError

TABLE = pd.DataFrame(
    {
        "uid": ["0a", "0b", "0c"],
        "URL": ["http://x/1.jpg", "http://x/2.jpg", "http://x/3.jpg"],
        "TEXT": ["a dog", 'a "cat"\nand more', ""],
        "score": [0.5, 0.25, 1.0],
        "day": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]),
        "width": [1, 2, 3],
    }
)
WRITERS = {
    "csv": lambda path: TABLE.to_csv(path, index=False),
    "tsv": lambda path: TABLE.replace("\n", " ", regex=True).to_csv(path, index=False, sep="\t"),
    "parquet": lambda path: TABLE.to_parquet(path, index=False),
    "json": lambda path: TABLE.drop(columns="day").to_json(path, orient="records"),
    "jsonl": lambda path: TABLE.drop(columns="day").to_json(path, orient="records", lines=True),
}
WRITERS |= {f"{kind}.gz": WRITERS[kind] for kind in ("csv", "tsv", "json", "jsonl")}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_has_its_columns_found_and_its_rows_counted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"urls.{kind}"
    WRITERS[kind](path)
    found = read_url_list(path)
    assert (found.format, list(found.rows), found.url, found.caption) == (kind, [3], "URL", "TEXT")
    # `day` has no words in JSON where it is a date; `width` is img2dataset's own.
    assert list(found.others) == ["uid", "score"]


def test_a_folder_of_files_is_one_list(tmp_path: Path) -> None:
    for name in ("b", "a"):
        TABLE.to_parquet(tmp_path / f"{name}.parquet")
    write(tmp_path / "README.md", "About it.")
    assert list(read_url_list(tmp_path).rows) == [3, 3]
    TABLE.to_csv(tmp_path / "c.csv")
    with pytest.raises(InputError, match="several kinds"):
        read_url_list(tmp_path)


@pytest.mark.parametrize(
    ("header", "url", "caption"),
    [
        ("url,caption", "url", "caption"),
        ("Image_URL,Alt_Text", "Image_URL", "Alt_Text"),
        ("text,caption,url", "url", "caption"),
        ("title,text,img_url", "img_url", "text"),
    ],
)
def test_columns_are_found_by_their_names(
    tmp_path: Path, header: str, url: str, caption: str
) -> None:
    cells = ",".join("x" for _ in header.split(","))
    found = read_url_list(write(tmp_path / "urls.csv", f"{header}\n{cells}\n"))
    assert (found.url, found.caption) == (url, caption)


def test_columns_can_be_told(tmp_path: Path) -> None:
    path = write(tmp_path / "urls.csv", "where,what\nx,y\n")
    found = read_url_list(path, url_column="where", caption_column="what")
    assert found == UrlList(path, "csv", (1,), "where", "what", [])


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (
            "urls.csv",
            "a,b\nx,y\n",
            "no column url or image_url or img_url for the URLs, only: a, b",
        ),
        ("urls.csv", "url,b\nx,y\n", "for the captions, only: url, b"),
        ("urls.csv", "url,caption\nx,y\nx\n", "cannot be read as csv"),
        ("urls.csv", "", "cannot be read as csv"),
        ("urls.parquet", "url,caption", "cannot be read as parquet"),
        ("urls.json", "{", "cannot be read as json"),
        ("urls.txt", "http://x/1.jpg", "is no list"),
        ("urls.csv.gz", "url,caption\nx,y\n", r"cannot be read as csv\.gz"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, name: str, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_url_list(write(tmp_path / name, text))
    assert error.value.next_step


def test_a_column_that_is_told_must_be_there_and_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "urls.csv", "url,caption,text\nx,y,z\n")
    with pytest.raises(InputError, match="no column 'nope'") as error:
        read_url_list(path, url_column="nope")
    assert "--url-column" in error.value.next_step
    with pytest.raises(InputError, match="'caption' beside 'text'"):
        read_url_list(path, caption_column="text")
    with pytest.raises(InputError, match="does not exist"):
        read_url_list(tmp_path / "no.csv")


def test_files_of_a_folder_have_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "url,caption\nx,y\n")
    write(tmp_path / "b.csv", "url,text\nx,y\n")
    with pytest.raises(InputError, match="different columns"):
        read_url_list(tmp_path)


def test_gzip_is_read_as_such(tmp_path: Path) -> None:
    rows = [{"url": "x", "caption": "y"}] * 5
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "urls.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert list(read_url_list(tmp_path / "urls.jsonl.gz").rows) == [5]


URLS = [
    *("file:///etc/hostname", "FILE:/etc/hostname", "  file:///x", "URL:file:///x"),
    *("<file:///x>", "<URL:file:///x>", "file://localhost/etc/hostname"),
]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("url", URLS)
def test_a_list_may_not_name_files_of_this_machine(tmp_path: Path, kind: str, url: str) -> None:
    table = TABLE.drop(columns="day").replace("\n", " ", regex=True)
    table.loc[2, "URL"] = url
    path = tmp_path / f"urls.{kind}"
    form, options = kind.removesuffix(".gz"), {"index": False}
    if form == "tsv":
        form, options = "csv", {"index": False, "sep": "\t"}
    if form.startswith("json"):
        options = {"orient": "records", "lines": form == "jsonl"}
    getattr(table, f"to_{form.removesuffix('l')}")(path, **options)
    with pytest.raises(InputError, match="names a file of this machine"):
        read_url_list(path)


@pytest.mark.parametrize("url", URLS)
def test_urllib_would_open_them(url: str) -> None:
    """What is refused is what img2dataset's `urlopen` takes for files."""
    assert Request(url).type == "file"


@pytest.mark.parametrize("url", ["http://x/file:///y", "https://x/?u=file:", "profile:x", ""])
def test_other_urls_stay(tmp_path: Path, url: str) -> None:
    path = write(tmp_path / "urls.csv", f"url,caption\n{url},a dog\n")
    assert list(read_url_list(path).rows) == [1]
