"""Schemas: what is inferred from a table, and that codes and values are two views of one thing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_gen.data import Schema, Variable

MISSING = st.sampled_from([None, np.nan, pd.NA])
COLUMNS = {  # pandas dtype -> values that may occur
    "int16": st.integers(-3, 3),
    "float64": st.integers(-3, 3).map(float),
    "bool": st.booleans(),
    "str": st.sampled_from(["", "nan", "None", "a b", "ü"]),
    "category": st.sampled_from(["low", "high"]),
    "Int64": st.integers(2**60, 2**60 + 2),
    "boolean": st.booleans(),
    "object": st.sampled_from(["x", "y"]),
}


@st.composite
def frames(draw):
    """Tables of mixed columns, each with at least one value."""
    rows = draw(st.integers(1, 6))
    columns = {}
    for number, dtype in enumerate(draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5))):
        values = draw(st.lists(COLUMNS[dtype], min_size=rows, max_size=rows))
        if dtype not in ("int16", "bool"):
            absent = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
            mark = None if dtype != "object" else draw(MISSING)
            values = [
                mark if gone and row else value for row, (value, gone) in enumerate(zip(values, absent, strict=True))
            ]
        columns[f"c{number}"] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)


def census():
    return pd.DataFrame(
        {
            "sex": ["Male", None, "Female"],
            "size": pd.Categorical(["L", "S", None], categories=["S", "M", "L"], ordered=True),
            "age": [39.0, np.nan, 17.0],
            "paid": [True, False, False],
            "country": ["A", "A", "A"],
            "children": pd.array([2, None, 0], dtype="Int64"),
        }
    )


@given(frames())
@settings(max_examples=150, deadline=None)
def test_frame_survives_encoding_and_decoding(frame):
    schema = Schema.of(frame)
    codes = schema.encode(frame)
    np.testing.assert_array_equal(np.isnan(codes), frame.isna().to_numpy())
    back = schema.decode(codes)
    pd.testing.assert_frame_equal(back.where(back.notna(), None), frame.where(frame.notna(), None))
    pd.testing.assert_series_equal(back.dtypes, frame.dtypes)


@given(frames())
@settings(max_examples=100, deadline=None)
def test_object_array_survives_encoding_and_decoding(frame):
    rows = frame.astype(object).to_numpy()
    schema = Schema.of(rows)
    codes = schema.encode(rows)
    np.testing.assert_array_equal(codes, Schema.from_json(schema.to_json()).encode(rows))
    back = schema.decode(codes)
    assert isinstance(back, np.ndarray) and back.dtype == object
    present = ~np.isnan(codes)
    assert back[present].tolist() == rows[present].tolist()
    assert all(value is None for value in back[~present])


@given(frames())
@settings(max_examples=100, deadline=None)
def test_schema_survives_json_with_the_types_of_its_levels(frame):
    schema = Schema.of(frame)
    back = Schema.from_json(schema.to_json())
    assert back == schema and back.form == schema.form
    for mine, theirs in zip(schema.variables, back.variables, strict=True):
        assert [type(level) for level in mine.levels] == [type(level) for level in theirs.levels]
        assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "bool", "<U1"])
def test_array_comes_back_in_its_dtype(dtype):
    rows = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    schema = Schema.of(rows)
    back = schema.decode(schema.encode(rows))
    assert back.dtype == rows.dtype
    np.testing.assert_array_equal(back, rows)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (np.array([[0, 5], [1, 7]]), np.array([[np.nan, 7.0]])),
        (np.array([[0, 5], [1, 7]], dtype=np.float32), np.array([[np.nan, 7.0]], dtype=np.float32)),
        (np.array([["a", "b"], ["c", "d"]]), np.array([[None, "d"]], dtype=object)),
    ],
)
def test_missing_codes_decode_to_a_dtype_that_can_say_so(rows, expected):
    back = Schema.of(rows).decode([[np.nan, 1.0]])
    assert back.dtype == expected.dtype
    np.testing.assert_array_equal(back, expected)


def test_missing_codes_of_whole_frame_columns_decode_to_nan_or_none():
    frame = pd.DataFrame({"count": [0, 1], "paid": [False, True]})
    back = Schema.of(frame).decode([[1, np.nan], [np.nan, 1]])
    assert back["count"].dtype == np.float64 and back["count"][0] == 1 and np.isnan(back["count"][1])
    assert back["paid"].dtype == object and back["paid"].tolist() == [None, True]


def test_integers_too_large_for_floats_stay_exact():
    rows = np.array([[2**60], [2**60 + 1]])
    assert Schema.of(rows).decode([[1], [np.nan]]).tolist() == [[2**60 + 1], [None]]


def test_names_kinds_and_levels_are_inferred():
    schema = Schema.of(census())
    assert schema.names == ("sex", "size", "age", "paid", "country", "children")
    assert [variable.levels for variable in schema.variables] == [
        ("Female", "Male"),
        ("S", "M", "L"),
        (17.0, 39.0),
        (False, True),
        ("A",),
        (0, 2),
    ]
    assert schema.cardinalities == (2, 3, 2, 2, 1, 2)
    kinds = [variable.kind for variable in schema.variables]
    assert kinds == ["binary", "categorical", "binary", "binary", "categorical", "binary"]
    assert repr(schema) == "Schema(6 variables: 4 binary, 2 categorical)" and len(schema) == 6
    assert schema.index("age") == 2


def test_booleans_have_both_levels_even_if_one_never_occurs():
    for rows in (np.ones((3, 1), dtype=bool), np.array([[True], [None]], dtype=object)):
        assert Schema.of(rows).variables == (Variable(0, "binary", (False, True)),)


def test_array_columns_are_called_by_index():
    schema = Schema.of(np.array([[3, 0], [1, 0]], dtype=np.uint8))
    assert schema.names == (0, 1) and [type(name) for name in schema.names] == [int, int]
    assert schema.variables[0].levels == (1, 3) and type(schema.variables[0].levels[0]) is int


def test_binary_schema_is_what_bits_have():
    bits = np.array([[0, 1, 1], [1, 0, 0]])
    assert Schema.binary(3) == Schema.of(bits)
    for same in (bits, bits.astype(bool), bits.astype(float), bits.astype(np.uint8)):
        np.testing.assert_array_equal(Schema.binary(3).encode(same), bits)
    np.testing.assert_array_equal(Schema.binary(3).decode(bits), bits)
    assert Schema.binary(3).decode(np.zeros((5, 2, 3))).shape == (5, 2, 3)


def test_frame_columns_may_come_in_any_order():
    frame = census()
    schema = Schema.of(frame)
    shuffled = frame[["paid", "children", "sex", "age", "country", "size"]]
    np.testing.assert_array_equal(schema.encode(shuffled), schema.encode(frame))


def test_levels_not_observed_and_other_category_orders_keep_their_code():
    schema = Schema.of(census())
    other = census().assign(size=pd.Categorical(["M", "M", "L"], categories=["XXL", "L", "M"]))
    assert schema.encode(other)[:, 1].tolist() == [1, 1, 2]


def test_decoded_category_keeps_its_categories_and_order():
    frame = census()
    schema = Schema.of(frame)
    assert schema.decode(schema.encode(frame))["size"].dtype == frame["size"].dtype


def test_selection_decodes_some_columns_in_the_order_asked():
    schema = Schema.of(census()).select(["age", "sex"])
    frame = schema.decode([[0, 1], [1, np.nan]])
    assert frame.columns.tolist() == ["age", "sex"]
    assert frame["age"].tolist() == [17.0, 39.0] and frame["sex"][0] == "Male" and frame["sex"].isna()[1]
    assert isinstance(Schema.binary(4).select([2]).decode([[1]]), np.ndarray)


def test_masked_entries_are_missing():
    rows = np.ma.masked_array([[0, 1], [1, 0]], mask=[[True, False], [False, False]])
    np.testing.assert_array_equal(Schema.binary(2).encode(rows), [[np.nan, 1], [1, 0]])


# Evidence


def test_evidence_from_dict_frame_and_array_agree():
    schema = Schema.of(census())
    expected = [[0, np.nan, 1, np.nan, np.nan, np.nan]]
    row = np.array([["Female", None, 39, np.nan, pd.NA, None]], dtype=object)
    for given_ in (
        {"age": 39, "sex": "Female"},
        {"age": np.int64(39), "sex": np.str_("Female"), "paid": None, "size": pd.NA},
        {"age": np.array(39.0), "sex": "Female"},
        pd.DataFrame({"age": [39], "sex": ["Female"]}),
        pd.DataFrame({"age": [39], "paid": [np.nan], "sex": ["Female"]}),
        row,
    ):
        np.testing.assert_array_equal(schema.encode_evidence(given_), expected)


def test_no_evidence_is_one_row_of_nothing():
    for codes in (Schema.binary(2).encode_evidence(), Schema.binary(2).encode_evidence({})):
        np.testing.assert_array_equal(codes, [[np.nan, np.nan]])


def test_evidence_rows_with_nan_where_nothing_is_given():
    given_ = np.array([[np.nan, 1.0], [0.0, np.nan]])
    np.testing.assert_array_equal(Schema.binary(2).encode_evidence(given_), given_)
    np.testing.assert_array_equal(Schema.binary(2).encode_evidence({1: True}), [[np.nan, 1]])


def test_column_of_all_missing_evidence_is_allowed():
    frame = pd.DataFrame({"sex": [np.nan, np.nan]})
    assert np.isnan(Schema.of(census()).encode_evidence(frame)).all()


# Errors


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (np.array([[0.5], [1.0]]), ValueError, "column 0: expected whole numbers; got 0.5. Real-valued"),
        (np.arange(257)[:, None], ValueError, "column 0: expected at most 256 levels; got 257. Real-valued"),
        (pd.DataFrame({"h": [0.1, 2]}), ValueError, "column 'h': expected whole numbers"),
        (np.arange(300).astype(str)[:, None], ValueError, "at most 256 levels; got 300. Group rare"),
        (np.array([[np.inf], [1.0]]), ValueError, "column 0: expected finite values; got inf"),
        (
            np.array([[np.nan], [np.nan]]),
            ValueError,
            "column 0: expected at least one value; got only missing",
        ),
        (np.array([["a"], [1]], dtype=object), ValueError, "expected values of one type; got \\['a', 1\\]"),
        (np.zeros((0, 2)), ValueError, "at least one row and one column; got shape \\(0, 2\\)"),
        (np.zeros((2, 0)), ValueError, "at least one row and one column; got shape \\(2, 0\\)"),
        (np.zeros(3), ValueError, "shape \\(rows, variables\\); got shape \\(3,\\)"),
        (np.zeros((3, 8, 8)), ValueError, "x.reshape\\(len\\(x\\), -1\\)"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "distinct column names; got \\['a'\\]"),
        (pd.DataFrame([[1]], columns=[("a", "b")]), TypeError, "name that is a string or an integer"),
        ([[1, 2]], TypeError, "got list. Use numpy.asarray"),
        (
            pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}),
            TypeError,
            "column 't': .*got dtype datetime64",
        ),
        (np.array([[1j]]), TypeError, "got dtype complex128"),
        (np.array([[[]], [{}]], dtype=object)[:, :0], ValueError, "at least one row and one column"),
        (pd.DataFrame({"l": [[1], [2]]}), TypeError, "column 'l': .*unhashable"),
        (pd.DataFrame({"l": [(1,), (2,)]}), TypeError, "column 'l': expected strings, .* got tuple"),
    ],
)
def test_tables_that_have_no_schema_say_why(rows, error, message):
    with pytest.raises(error, match=message):
        Schema.of(rows)


@pytest.mark.parametrize("value", ["Divers", 1, np.inf])
def test_unknown_level_names_column_levels_and_value(value):
    schema = Schema.of(census())
    message = rf"variable 'sex': expected one of the levels \['Female', 'Male'\]; got \[{value!r}\]"
    with pytest.raises(ValueError, match=message):
        schema.encode_evidence({"sex": value})
    with pytest.raises(ValueError, match=message):
        schema.encode(census().assign(sex=pd.Series([value] * 3, dtype=object)))


def test_infinity_is_no_level():
    with pytest.raises(ValueError, match=r"variable 1: expected one of the levels \[0, 1\]; got \[-?inf"):
        Schema.binary(2).encode(np.array([[0.0, np.inf]]))


def test_unknown_and_absent_columns_are_named():
    schema, frame = Schema.of(census()), census()
    with pytest.raises(ValueError, match=r"expected names among \['sex', .*; got \['Sex'\]"):
        schema.encode_evidence({"Sex": "Male"})
    with pytest.raises(ValueError, match=r"got \['extra'\]"):
        schema.encode(frame.assign(extra=1))
    with pytest.raises(ValueError, match=r"got none called \['age'\]"):
        schema.encode(frame.drop(columns="age"))
    with pytest.raises(ValueError, match=r"got \['height'\]"):
        schema.index("height")
    with pytest.raises(ValueError, match="expected 2 columns, one per variable; got 3"):
        Schema.binary(2).encode(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least one row"):
        schema.encode_evidence(frame[:0])


def test_dict_evidence_is_one_row():
    with pytest.raises(TypeError, match="variable 0: expected a single value; got list"):
        Schema.binary(2).encode_evidence({0: [0, 1]})
    with pytest.raises(TypeError, match="got ndarray"):
        Schema.binary(2).encode_evidence({0: np.array([1])})


@pytest.mark.parametrize("code", [2.0, -1.0, 0.5, np.inf])
def test_code_that_no_level_has_is_refused(code):
    with pytest.raises(ValueError, match=rf"expected codes 0\.\.1 or NaN for variable 1; got {code}"):
        Schema.binary(2).decode([[0.0, code]])


def test_codes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(rows, 2\); got \(1, 3\)"):
        Schema.binary(2).decode(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"expected shape \(rows, 6\); got \(1, 1, 6\)"):
        Schema.of(census()).decode(np.zeros((1, 1, 6)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("h", "real", (0.0,)),
            ValueError,
            "Variable 'h': .* got 'real'. Real-valued variables are not supported",
        ),
        (("h", "ordinal", (0,)), ValueError, "got 'ordinal'"),
        (("h", "binary", (0, 1, 2)), ValueError, "expected two levels; got \\[0, 1, 2\\]"),
        (("h", "categorical", ()), ValueError, "expected at least one level"),
        (("h", "categorical", (1, True)), ValueError, "expected distinct levels"),
        (("h", "categorical", (None, 1)), TypeError, "got None"),
        (("h", "categorical", (float("nan"), 1)), ValueError, "expected finite levels"),
        ((True, "binary", (0, 1)), TypeError, "got True"),
    ],
)
def test_variable_that_makes_no_sense_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Variable(*arguments)


def test_schema_needs_variables_of_distinct_names():
    x = Variable("x", "binary", (0, 1))
    for variables in ((), (x, x)):
        with pytest.raises(ValueError, match="at least one variable, of distinct names"):
            Schema(variables)
    with pytest.raises(ValueError, match="form"):
        Schema((x,), "table")  # type: ignore[arg-type]


def test_schemas_differ_where_their_variables_do():
    x = Variable("x", "binary", ("a", "b"))
    assert Schema((x,)) == Schema((Variable("x", "binary", ("a", "b"), "category"),))
    assert hash(Schema((x,))) == hash(Schema((x,)))
    others = [
        Variable("y", "binary", ("a", "b")),
        Variable("x", "categorical", ("a", "b")),
        Variable("x", "binary", ("b", "a")),
    ]
    assert all(Schema((other,)) != Schema((x,)) for other in others)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": "array", "variables": [{}]}'])
def test_text_that_is_no_schema_is_refused(text):
    with pytest.raises(ValueError, match="expected text written by Schema.to_json"):
        Schema.from_json(text)


def test_json_is_plain_and_readable():
    record = json.loads(Schema((Variable("x", "categorical", ("a", 1, 2.5, False)),)).to_json())
    assert record["form"] == "frame" and record["variables"][0]["levels"] == ["a", 1, 2.5, False]


def test_arrays_need_no_pandas():
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import numpy as np; from ppl_gen.data import Schema\n"
        "x = np.array([['a', 1], ['b', None]], dtype=object); s = Schema.of(x)\n"
        "assert s.decode(s.encode(x)).tolist() == x.tolist()\n"
        "s.encode_evidence({0: 'a'})\n"
        "try: s.__class__(s.variables, 'frame').decode([[0, 0]])\n"
        "except ImportError as e: assert 'ppl_gen[table]' in e.__notes__[0]\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(__file__).parents[1])
