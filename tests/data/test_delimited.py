"""csv and tsv as pandas, Excel and corpora write them: what is a field, a row, a quote, a column."""

import csv

import pandas
import pytest

from seqdyconv.data.delimited import read_delimited
from seqdyconv.errors import InputError

TEXTS = [
    "plain",
    'she said "no"',
    '"yes"',
    "a, b; c",
    "one\ntwo",
    "one\r\ntwo",
    "one\rtwo",
    "tab\there",
    "NA",
    "12",
    "",
    "1e5",
]
TEXTS += ["ä\u2028\x85\x0b\x1cß", "\N{NO-BREAK SPACE}x\N{IDEOGRAPHIC SPACE}"]


def columns(path, content=None):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = list(read_delimited(path))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(params=[".csv", ".tsv"])
def path(request, tmp_path):
    return tmp_path / f"data{request.param}"


class TestWhatPandasWrites:
    @pytest.mark.parametrize("quoting", ["QUOTE_MINIMAL", "QUOTE_ALL", "QUOTE_NONNUMERIC"])
    @pytest.mark.parametrize("index", [False, True, "multi"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_is_read_as_it_was(self, path, quoting, index, end):
        table = pandas.DataFrame({"text": TEXTS, "label": range(len(TEXTS))})
        if index == "multi":
            table.index = pandas.MultiIndex.from_product([["x"], table.index])
        table.to_csv(
            path,
            sep="\t" if path.suffix == ".tsv" else ",",
            index=bool(index),
            quoting=getattr(csv, quoting),
            lineterminator=end,
            encoding="utf-8-sig",
        )
        assert columns(path) == {"text": TEXTS, "label": [str(number) for number in range(len(TEXTS))]}

    def test_an_index_of_names(self, path):
        table = pandas.DataFrame({"text": ["a", "b"]}, index=["one", 'the "two"'])
        table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
        assert columns(path) == {"text": ["a", "b"]}


class TestCsv:
    @pytest.mark.parametrize(
        "content",
        [
            "text;label\na,b;c\n",
            "sep=;\r\ntext;label\r\na,b;c\r\n",
            '\ufeffsep=,\ntext,label\n"a,b",c',
            "SEP=\t\ntext\tlabel\na,b\tc\n",
            ' text , label\r\r\n"a,b",c\r\n',
            '\n\ntext,label\n\n"a,b",c\n\n',
        ],
    )
    def test_separators_marks_and_blank_lines(self, tmp_path, content):
        assert columns(tmp_path / "data.CSV", content) == {"text": ["a,b"], "label": ["c"]}

    def test_a_quote_inside_a_field_without_quotes_is_a_quote(self, tmp_path):
        assert columns(tmp_path / "a.csv", 'text,label\n5" disk,x\n') == {"text": ['5" disk'], "label": ["x"]}

    def test_a_long_field(self, tmp_path):
        assert columns(tmp_path / "a.csv", f'text,label\n"{"x " * 2**20}",x\n')["text"] == ["x " * 2**20]
        assert csv.field_size_limit() == 131_072


class TestTsv:
    @pytest.mark.parametrize(
        "rows",
        [
            [('"Nein", sagte er.', '"No", he said.')],
            [('"Ja.', "Yes."), ('Nein."', "No.")],
            [("a", '"'), ('"', "b"), ('"', "c")],
            [('"Ja."', '"Yes."')],
            [('"Ja, ja."', "Yes"), ("Nein, nein", "No")],
            [('Er sagte ""ja""', "x"), ('""', "y")],
            [('ein "', "one"), ("zwei\rdrei", "two three")],
        ],
    )
    def test_quotes_of_a_corpus_are_quotes(self, tmp_path, rows):
        content = "".join("\t".join(row) + "\n" for row in [("de", "en"), *rows])
        found = columns(tmp_path / "a.tsv", content)
        assert list(zip(found["de"], found["en"])) == rows

    @pytest.mark.parametrize("text", ['er "ja"', "er\tja", "er\nja", 'a\n"b"\tc'])
    def test_quotes_that_a_field_needs_are_none_of_the_text(self, tmp_path, text):
        quoted = '"' + text.replace('"', '""') + '"'
        assert columns(tmp_path / "a.tsv", f"de\ten\n{quoted}\tx\nb\ty\n")["de"] == [text, "b"]

    def test_what_may_be_either_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"quotes around the fields with a comma alone.*save it as csv"):
            columns(tmp_path / "a.tsv", 'de\ten\n"Ja, ja."\tYes.\n')


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", "text,label\na\n", "line 2 of .* has 1 field, but the header has 2"),
            ("a.csv", "text,label\na,b\n\na,b,c\n", "line 4 of .* has 3 fields, but the header has 2"),
            ("a.csv", 'text,label\n"a\nb",c\nd\n', "line 4 of .* has 1 field"),
            ("a.tsv", '"text"\t"label"\n"1"\t"a"\t"b"\n', "line 2 of .* has 3 fields"),
            ("a.tsv", "text\tlabel\na b\n", "line 2 of .* has 1 field"),
            ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', "line 3 of .* has quotes that are not those of .csv"),
            ("a.csv", 'text,label\n"a" b,c\n', "line 2 of .* has quotes that are not those of .csv"),
            ("a.csv", 'text,label\n"a \\"b\\"",c\n', "line 2 of .* has quotes that are not those of .csv"),
            ("a.tsv", '"text"\t"label"\n"a \\"b\\""\tc\n', "line 2 of .* has quotes that are not those of .tsv"),
            ("a.csv", "text,label,text\na,b,c\n", "more than one column 'text'"),
            ("a.csv", "text, text\na,b\n", "more than one column 'text'"),
            ("a.csv", "text\tlabel\na\tb\n", "tabs between its fields.*name it .tsv"),
            ("a.csv", "text,label\n", "has a header but no rows"),
            ("a.csv", "text,label\n\n\n", "has a header but no rows"),
            ("a.csv", "\n", "has no header"),
            ("a.csv", "", "has no header"),
            ("a.csv", ",\na,b\n", "has no header"),
            ("a.csv", "text,label\ra,b\rc,d\r", "carriage returns alone"),
            ("a.csv", "text,label\na\0,b\n", "line 2 of .* holds a NUL byte"),
            ("a.csv", "text,label\na,b\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
            ("a.csv", b"PK\x03\x04\x14", "a zip archive, as those of xlsx"),
        ],
    )
    def test_in_one_line(self, tmp_path, name, content, message):
        with pytest.raises(InputError, match=message) as caught:
            columns(tmp_path / name, content)
        assert "\n" not in str(caught.value)
