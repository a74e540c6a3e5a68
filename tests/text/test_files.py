"""Prompt files: what users have, read whole, and every row that could not be read named."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from interp.errors import InterpError
from interp.text.files import read_prompts

SHARED = Path(__file__).resolve().parents[3] / "shared" / "prompts"


@pytest.mark.parametrize(
    ("name", "prompts", "images"),
    [
        ("sdv1_webster500.csv", 500, 500),
        ("extended_mv_458_sd1.csv", 458, 94),
        ("non_mem_1500.csv", 1500, 1500),
        ("nemo_memorized_500.csv", 500, 500),
        ("wen_sdv1_500.jsonl", 500, 500),
    ],
)
def test_the_fields_own_files_load_whole(name, prompts, images):
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not here")
    file = read_prompts(SHARED / name)
    assert len(file) == prompts
    assert len(set(file.groups)) == images
    assert file.unreadable == ()
    assert all(file.texts)


ROWS = [("a goat, on a hill", "u1"), ('the "best" goat; really', "u1"), ("a|b\tc", "")]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [("prompt", "url"), ("URLs", "Caption"), ("TEXT", "Url")])
def test_any_separator_and_spelling_gives_the_same_prompts(tmp_path, separator, header):
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in ROWS]
    rows = [row if header[0].lower() != "urls" else row[::-1] for row in quoted]
    lines = [separator.join(row) for row in [header, *rows]]
    path = tmp_path / "list.csv"
    path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    file = read_prompts(path)
    assert file.texts == [text for text, _ in ROWS]
    assert file.groups == ["u1", "u1", "line 4"]


def test_json_lines_json_and_text_give_the_same_prompts(tmp_path):
    texts = ["a goat", "zwölf Ziegen, ein Bock", "!"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"Caption": t}) for t in texts))
    (tmp_path / "b.json").write_text(json.dumps(texts))
    (tmp_path / "c.txt").write_text("\n\n".join(texts))
    (tmp_path / "d.csv").write_text("prompt\n" + "\n".join(texts))
    for name in ("a.jsonl", "b.json", "c.txt", "d.csv"):
        assert read_prompts(tmp_path / name).texts == texts, name


def test_unreadable_rows_are_listed_with_line_and_reason(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(
        b'prompt,url\na goat,u1\n,u2\none,two,three\n\xff\xfe,u4\nlast,u5\n"unclosed,u6\nlost,u7\n'
    )
    with pytest.warns(UserWarning, match="4 unreadable rows"):
        file = read_prompts(path)
    assert file.texts == ["a goat", "last"]
    assert [(bad.line, bad.why.split(" (")[0]) for bad in file.unreadable] == [
        (3, "no prompt"),
        (4, "3 fields where the header has 2"),
        (5, "not UTF-8"),
        (7, "1 fields where the header has 2"),
    ]
    assert "unclosed quote" in file.unreadable[-1].why

    (tmp_path / "list.jsonl").write_text('{"prompt": "a"}\n{broken\n17\n{"prompt": null}\n')
    with pytest.warns(UserWarning, match="line 2: not JSON"):
        file = read_prompts(tmp_path / "list.jsonl")
    assert file.texts == ["a"]
    assert [bad.line for bad in file.unreadable] == [2, 3, 4]


def test_other_columns_images_and_groups_are_kept(tmp_path):
    path = tmp_path / "memorized.csv"
    path.write_text("id,Prompt,views,image,group\nm1,a goat,64,images/m1.png,g\nm2,a cow,1,,g\n")
    file = read_prompts(path)
    assert file.images == ["images/m1.png", None]
    assert file.groups == ["g", "g"]
    assert list(file.frame()["views"]) == ["64", "1"]
    assert file.rows[0].columns["id"] == "m1"


def test_missing_column_file_and_prompts_say_what_exists(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("title,link\na goat,u\n")
    with pytest.raises(InterpError, match=r"'title', 'link'"):
        read_prompts(path)
    assert read_prompts(path, column="Title").texts == ["a goat"]
    with pytest.raises(InterpError, match="no such file"):
        read_prompts(tmp_path / "nowhere.csv")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InterpError, match="none with a prompt"):
        read_prompts(tmp_path / "empty.txt")


def test_training_images_beside_the_file_are_opened_and_others_are_none(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 2), (9, 8, 7)).save(tmp_path / "images" / "m1.png")
    path = tmp_path / "prompts.csv"
    path.write_text(
        "caption,image\na goat,images/m1.png\na cow,\n"
        "a pig,https://example.com/x.png\na cat,no.png\n"
    )
    goat, *others = read_prompts(path).pictures()
    assert goat.getpixel((3, 1)) == (9, 8, 7)
    assert others == [None, None, None]


MISSING = ["", "nan", "NaN", "None", "null", "N/A", "n/a", "NA", "<NA>", "  "]


@pytest.mark.parametrize("spelling", MISSING)
def test_every_spelling_of_missing_is_missing(tmp_path, spelling):
    rows = [{"caption": text, "url": spelling, "image": spelling} for text in "abc"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cells = "\n".join(f"{row['caption']},{spelling},{spelling}" for row in rows)
    (tmp_path / "b.csv").write_text(f"caption,url,image\n{cells}\n")
    for name in ("a.jsonl", "b.csv"):
        file = read_prompts(tmp_path / name)
        assert len(set(file.groups)) == 3, name
        assert file.images == [None] * 3
    (tmp_path / "c.csv").write_text(f'caption,url\n"{spelling}",u1\na,u2\n')
    with pytest.warns(UserWarning, match="line 2: no prompt"):
        assert read_prompts(tmp_path / "c.csv").texts == ["a"]


def test_missing_values_of_json_and_parquet_are_missing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"caption": "a", "url": NaN}\n' * 3)
    (tmp_path / "b.jsonl").write_text('{"caption": "a", "url": [], "group": null}\n' * 3)
    frame = pd.DataFrame({"caption": ["a"] * 3, "url": [None, float("nan"), pd.NA]})
    frame["url"] = frame["url"].astype("string")
    frame.to_parquet(tmp_path / "c.parquet")
    pd.DataFrame({"caption": ["a"] * 3, "url": [float("nan")] * 3}).to_parquet(tmp_path / "d.pq")
    for name in ("a.jsonl", "b.jsonl", "c.parquet", "d.pq"):
        assert len(set(read_prompts(tmp_path / name).groups)) == 3, name


SEPARATED = "a goat\u2028on a hill\x0bof\x1cgrass\x85and\u2029sky"


def test_only_line_ends_end_lines(tmp_path):
    texts = [SEPARATED, "a cow"]
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    for number, end in enumerate(("\n", "\r\n", "\r")):
        for name, content in {
            "a.txt": texts, "b.jsonl": lines, "c.csv": ["prompt", *(f'"{t}"' for t in texts)],
        }.items():  # fmt: skip
            path = tmp_path / f"{number}{name}"
            path.write_bytes(end.join(content).encode())
            assert read_prompts(path).texts == texts, (name, end)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be",
                                      "utf-32"])  # fmt: skip
def test_encodings_are_recognised(tmp_path, encoding):
    texts = ["zwölf Ziegen, ein Bock", "a goat on a hill", "山羊"]
    (tmp_path / "a.txt").write_bytes("\n".join(texts).encode(encoding))
    rows = ["prompt;url", *(f"{text};u" for text in texts)]
    (tmp_path / "b.csv").write_bytes("\r\n".join(rows).encode(encoding))
    for name in ("a.txt", "b.csv"):
        assert read_prompts(tmp_path / name).texts == texts, name


def test_parquet_keeps_columns_and_groups(tmp_path):
    rows = {"Caption": ["a goat", "a cow", "a pig"], "URL": ["u", "u", None], "views": [3, 4, 5]}
    pd.DataFrame(rows).to_parquet(tmp_path / "list.parquet")
    file = read_prompts(tmp_path / "list.parquet")
    assert file.texts == rows["Caption"]
    assert file.groups == ["u", "u", "line 3"]
    assert [row.columns["views"] for row in file] == [3, 4, 5]
    torn = tmp_path / "torn.parquet"
    torn.write_bytes((tmp_path / "list.parquet").read_bytes()[:200])
    with pytest.raises(InterpError, match="starts like Parquet"):
        read_prompts(torn)


def test_a_header_written_twice_is_no_prompt(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,url\na goat,u1\nprompt,url\na cow,u2\n")
    assert read_prompts(tmp_path / "a.csv").texts == ["a goat", "a cow"]


def test_a_csv_without_a_header_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("a goat,https://a\na cow,https://b\n")
    with pytest.raises(InterpError, match="add a header above it"):
        read_prompts(tmp_path / "a.csv")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b"])
def test_other_formats_are_named(tmp_path, start):
    (tmp_path / "a.csv").write_bytes(start + b"\0" * 100)
    with pytest.raises(InterpError, match="zip archive|gzip"):
        read_prompts(tmp_path / "a.csv")
