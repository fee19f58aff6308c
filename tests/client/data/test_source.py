import gzip
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fwdllm_client.data import Contents
from fwdllm_client.tasks.classification import DataSource, Row
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
    assert source.contents() == Contents("classification", 2, ("x",))
    assert DataSource(path, "body", "topic").contents() == Contents("classification", 3, ("x", "y"))


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
        (
            "a.csv",
            "question,class\na,x\n",
            "no column 'text', only 'question', 'class'; name the right one with --text-column, in a job file",
        ),
        ("a.csv", "text;y\na;x\n", "no column 'label', only 'text', 'y'; name the right one with --label-column"),
        ("a.tsv", "body\ttopic\na\tx\n", "no column 'text', only 'body', 'topic'; name"),
        ("a.json", '[{"text":"a","label":"x"},3]', "a.json, row 2: not a JSON object"),
        ("a.json", '{"text":"a","label":"x"}\n{"text":', "a.json, line 2: not a whole JSON object"),
        ("a.csv.gz", "text,label\na,x\n", "a.csv.gz: cannot read the data (Not a gzipped file"),
        (
            "a.csv.gz",
            gzip.compress(b"text,label\n" + b"a,x\n" * 99, mtime=0)[:-9],
            "a.csv.gz: cannot read the data (Compressed",
        ),
        ("a.json.gz", gzip.compress(b"[1]", mtime=0)[:-9], "a.json.gz: cannot read the data (Compressed"),
        ("a.arrow", "text", "a.arrow: not a readable Arrow file"),
        ("a.csv", "text,label,text\na,x,b\n", "a.csv: the column 'text' occurs twice"),
        ("a.csv", "text,label\na,x\nb,c,y\n", "a.csv, line 3: 3 fields, but the header has 2; quote"),
        ("a.csv", "text,label\na,x\nb\n", "a.csv, line 3: 1 fields, but the header has 2"),
        ("a.csv", 'text,label\na,x\n"b,y\nc,z\n', "a.csv, line 3: not a CSV record (unexpected end of data); close"),
        ("a.csv", 'text,label\n"a" b,x\n', "a.csv, line 2: not a CSV record"),
        ("a.csv", "text,label\na, \n", "a.csv, line 2: 'label' is empty; give the row a label, drop it, or"),
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
        DataSource(write(name, data)).contents()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(BadInputError, match=r"none\.csv: cannot read the data \(No such file or directory\)"):
        rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInputError, match=r"folder\.csv: cannot read the data \(Is a directory\)"):
        rows(tmp_path / "folder.csv")


def test_an_unknown_file_type_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"data\.doc: unknown file type; use \.csv, \.tsv, \.jsonl"):
        DataSource(tmp_path / "data.doc")
    with pytest.raises(BadInputError, match=r"convert it with python -c .*read_excel.*data\.xlsx.*data\.csv"):
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


TABLE = {"text": ["a", "b", "ü"], "label": [1, 0, -1]}
# As datasets declares a ClassLabel; -1 is a row without a label.
FEATURES = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["bad", "good"], "_type": "ClassLabel"}}


def declared_table():
    table = pa.table(TABLE)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def save_to_disk(folder, tables):
    """The layout of ``Dataset.save_to_disk``: Arrow streams and a list of them."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05}-of-{len(tables):05}.arrow" for index in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tsv", "label\ttext\nx\ta, b; c\ny\tü\n"),
        ("a.csv", "label;text\nx;a, b; c\ny;ü\n".replace("a, b; c", '"a, b; c"')),
        ("a.csv", "\n\nlabel\ttext\nx\ta, b; c\ny\tü\n"),
        ("a.json", '[{"label":"x","text":"a, b; c"},\n{"text":"ü","label":"y"}]'),
        ("a.json", '{"label":"x","text":"a, b; c"}\n{"text":"ü","label":"y"}\n'),
        ("a.csv.gz", gzip.compress('label,text\nx,"a, b; c"\ny,ü\n'.encode(), mtime=0)),
        ("a.jsonl.gz", gzip.compress('{"label":"x","text":"a, b; c"}\n{"text":"ü","label":"y"}'.encode(), mtime=0)),
        ("a.JSON.GZ", gzip.compress('[{"label":"x","text":"a, b; c"},{"text":"ü","label":"y"}]'.encode(), mtime=0)),
    ],
)
def test_rows_as_people_store_them(write, name, data):
    assert [(row.text, row.label) for row in rows(write(name, data))] == [("a, b; c", "x"), ("ü", "y")]


def test_classes_of_datasets_have_their_names(tmp_path):
    pq.write_table(declared_table(), tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, declared_table().schema) as writer:
        writer.write_table(declared_table())
    folder = save_to_disk(tmp_path / "saved", [declared_table().slice(0, 1), declared_table().slice(1)])
    for path in (tmp_path / "a.parquet", tmp_path / "a.arrow", folder):
        with pytest.raises(BadInputError, match="row 3: 'label' is empty"):
            rows(path)
        assert rows(path, skip_incomplete=True) == [Row(1, "a", "good"), Row(2, "b", "bad")]


def test_a_folder_with_several_datasets_names_them(tmp_path):
    save_to_disk(tmp_path / "saved" / "train", [pa.table({"text": ["a"], "label": ["x"]})])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(BadInputError, match=r"holds the datasets train, test; name one, as .*saved/train"):
        rows(tmp_path / "saved")
    assert rows(tmp_path / "saved" / "train") == [Row(1, "a", "x")]


def test_incomplete_rows_are_left_out_and_counted(write):
    path = write("a.jsonl", '{"text":"a","label":"x"}\n{"text":"b","label":" "}\n{"text":null,"label":"y"}\n')
    source = DataSource(path, skip_incomplete=True)
    with capture_logs() as logs:
        assert source.contents() == Contents("classification", 1, ("x",), left_out=2)
    assert [(line["event"], line["rows"], line["kept"]) for line in logs] == [
        ("rows without a text or a label are left out", 2, 1)
    ]
    assert source.values("label") == ["x"], "they belong to the rows"
    with pytest.raises(BadInputError, match="none of its rows has both 'text' and 'label'"):
        DataSource(write("b.csv", "text,label\na,\n"), skip_incomplete=True).contents()


@pytest.mark.parametrize(("text", "warned"), [("a [SEP] b", True), ("a</s></s>b", True), ("a - b", False)])
def test_pairs_in_one_column_are_warned_of(write, text, warned):
    path = write("a.csv", f"text,label\n{text},x\nc,y\n")
    with capture_logs() as logs:
        DataSource(path).contents()
    assert [line["rows"] for line in logs if "separator" in line["event"]] == [1] * warned
