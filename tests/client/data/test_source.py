import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.data import Contents, DataSource, Row, contents_of
from fwdllm_common.errors import BadInputError


@pytest.fixture
def write(tmp_path):
    def write_file(name, data):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write_file


def rows(path, **columns):
    return list(DataSource(path, **columns).rows())


def test_csv_rows_come_with_their_lines(write):
    path = write("a.csv", '\ufeffid,label,text\n1,x,plain\n\n2, y ,"two\nlines, ""quoted"""\n3,x,ü\n')
    assert rows(path) == [
        Row(2, "plain", "x"),
        Row(4, 'two\nlines, "quoted"', "y"),
        Row(6, "ü", "x"),
    ]


def test_windows_line_ends(write):
    assert rows(write("a.csv", "text,label\r\na,x\r\nb,y\r\n")) == [Row(2, "a", "x"), Row(3, "b", "y")]
    assert rows(write("a.jsonl", '{"text":"a","label":"x"}\r\n')) == [Row(1, "a", "x")]


def test_jsonl_rows(write):
    path = write("a.jsonl", '\ufeff{"text": "a", "label": 3}\n\n{"label": true, "text": "", "more": []}\n')
    assert rows(path) == [Row(1, "a", "3"), Row(3, "", "true")]


def test_parquet_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [1, 2, 1], "text": ["a", "b", "ü"], "user": ["u", "v", "u"]}), path)
    assert rows(path) == [Row(1, "a", "1"), Row(2, "b", "2"), Row(3, "ü", "1")]
    assert rows(path, user_column="user", user="u") == [Row(1, "a", "1"), Row(3, "ü", "1")]


def test_other_column_names_and_a_user(write):
    path = write("a.csv", "body,topic,who\na,x,1\nb,y,2\nc,x,1\n")
    source = DataSource(path, "body", "topic", "who", "1")
    assert list(source.rows()) == [Row(2, "a", "x"), Row(4, "c", "x")]
    assert contents_of(source) == Contents("classification", 2, ("x",))
    assert contents_of(DataSource(path, "body", "topic")) == Contents("classification", 3, ("x", "y"))


def test_a_very_long_text(write):
    text = "word " * 100_000
    assert rows(write("a.csv", f"text,label\n{text},x\n")) == [Row(2, text, "x")]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")), min_size=1))
def test_jsonl_gives_back_any_text(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("data") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": "x"}) + "\n" for t in texts), encoding="utf-8")
    assert [row.text for row in rows(path)] == texts


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "", "a.csv: the file is empty; it needs rows"),
        ("a.csv", "text,label\n", "a.csv: no rows; the file needs"),
        ("a.csv", "\n\n", "a.csv: no rows; the file needs"),
        ("a.csv", "txt,label\na,x\n", "a.csv: no column 'text', only 'txt', 'label'; did you mean 'txt'?"),
        ("a.csv", "text,y\na,x\n", "a.csv: no column 'label', only 'text', 'y'; name the right one"),
        ("a.csv", "text,label,text\na,x,b\n", "a.csv: the column 'text' occurs twice"),
        ("a.csv", "text,label\na,x\nb,c,y\n", "a.csv, line 3: 3 fields, but the header has 2; quote"),
        ("a.csv", "text,label\na,x\nb\n", "a.csv, line 3: 1 fields, but the header has 2"),
        ("a.csv", 'text,label\na,x\n"b,y\nc,z\n', "a.csv, line 3: not a CSV record (unexpected end of data); close"),
        ("a.csv", 'text,label\n"a" b,x\n', "a.csv, line 2: not a CSV record"),
        ("a.csv", "text,label\na, \n", "a.csv, line 2: 'label' is empty; give the row a label or drop it"),
        ("a.csv", b"text,label\na,x\nb\xe9,x\n", "a.csv, line 3: byte 2 is not UTF-8; save the file as UTF-8"),
        ("a.csv", "text,label\na,x\n".encode("utf-16"), "a.csv: the file is UTF-16; save it as UTF-8"),
        ("a.jsonl", '{"text":"a","label":"x"}\n{"text":"b","la', "a.jsonl, line 2: not a whole JSON object"),
        ("a.jsonl", '["a","x"]\n', "a.jsonl, line 1: not a JSON object; write one object a line"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1: not a whole JSON object"),
        ("a.jsonl", '{"text":"a"}\n', "a.jsonl, line 1: no column 'label', only 'text'"),
        ("a.jsonl", '{"text":"a","label":null}\n', "a.jsonl, line 1: 'label' is empty"),
        ("a.jsonl", '{"text":"a","label":1.5}\n', "a.jsonl, line 1: 'label' is neither a text nor a whole number"),
        ("a.jsonl", '{"text":null,"label":"x"}\n', "a.jsonl, line 1: 'text' is not a text"),
        ("a.jsonl", '{"text":"a\\ud800","label":"x"}\n', "a.jsonl, line 1: 'text' has half a surrogate pair"),
        ("a.jsonl", b'{"text":"\xff","label":"x"}\n', "a.jsonl, line 1: byte 10 is not UTF-8"),
        ("a.parquet", "text", "a.parquet: not a readable Parquet file"),
    ],
)
def test_what_is_wrong_where_and_what_to_do(write, name, data, message):
    with pytest.raises(BadInputError) as error:
        contents_of(DataSource(write(name, data)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(BadInputError, match=r"none\.csv: cannot read the data \(No such file or directory\)"):
        rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInputError, match=r"folder\.csv: cannot read the data \(Is a directory\)"):
        rows(tmp_path / "folder.csv")


def test_an_unknown_file_type_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"data\.xlsx: unknown file type; use \.csv, \.jsonl"):
        DataSource(tmp_path / "data.xlsx")


def test_a_user_that_does_not_occur(write):
    path = write("a.csv", "text,label,who\na,x,1\nb,y,2\n")
    with pytest.raises(BadInputError, match="no row has '3' in column 'who', which holds '1', '2'"):
        rows(path, user_column="who", user="3")
    with pytest.raises(BadInputError, match="name both the user column and the user"):
        DataSource(path, user_column="who")


def test_missing_parquet_column(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [1], "texts": ["a"]}), path)
    with pytest.raises(BadInputError, match="no column 'text', only 'label', 'texts'; did you mean 'texts'"):
        rows(path)


def test_parquet_without_pyarrow(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInputError, match=r"pip install 'fwdllm\[parquet\]'"):
        rows(write("a.parquet", "PAR1"))
