"""The published A5 files: byte-for-byte regeneration, the format, damage, and the command line."""

import csv
import gzip
import hashlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.a5_files import check_word_file, historical_rows, read_word_file, write_word_file
from tasks.a5_published import PUBLISHED, find_published
from tasks.base import DamagedData
from tasks.groups import parse_group

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "a5_files.py"

# SHA-256 of plain files in the history of jopetty/word-problem: (length, seed, rows, hash).
HISTORICAL = [
    (2, 946607, 3_600, "5fa1b247ecf078d027a71fff7c486d6e4f12df4d0f8ff4526bc91cf759bbf307"),
    (3, 892858, 10_000, "bf8115a4e5566db1113dde9f2068ea688d167a9b6c01c98ba36294fef273aee7"),
    (4, 25445, 10_000, "0c406fd2507ee938f3fe8bc9946234d1c98889c4b6f37afa1505c35d37d41de4"),
    (5, 137030, 10_000, "13c592446af4ecca79c50f00241ae82c367443b866d58d126518008bc09bc4fa"),
    (6, 288871, 10_000, "c75314631c1c3cb8ad00760e56f10f7d8a2e1fa628eeca000276858566991fa4"),
    (7, 120205, 10_000, "5e5e82bfbbff5b44e92b030424cddd18efd4876aacae8dfca391f45174363a4f"),
    (8, 335161, 10_000, "9725801527b81a9cfad70f408b5a6b73b54511e973b1ac3bd93106de2fa28f6c"),
    (9, 977792, 10_000, "509096b963fd60c52620d4bd1420a2ff1adb8fe77f398b5dfd47df45efd7574d"),
    (10, 490455, 10_000, "f1540df025d2533cf5afef00b8e3506d668b48e43f35e3e6d7c25b3371ca072e"),
    (16, 623164, 10_000, "295b3b4ebbbba3026ccdc9fe068df8c5a5a41d225a00f37a52ca35621b531ce1"),
]


@pytest.fixture(scope="module")
def command_line():
    specification = importlib.util.spec_from_file_location("a5_files_script", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "words.csv"
    write_word_file(path, 7, *historical_rows(3, 7, 20))
    return path


ZIPPED = gzip.compress(b"seed,input,target\n7,1 2,1 3\n", mtime=0)


@pytest.mark.parametrize(("length", "seed", "rows", "sha256"), HISTORICAL)
def test_published_files_are_regenerated_byte_for_byte(length, seed, rows, sha256, tmp_path):
    path = tmp_path / "words.csv"
    write_word_file(path, seed, *historical_rows(length, seed, rows))
    contents = path.read_bytes()
    assert hashlib.sha256(contents).hexdigest() == sha256
    published = find_published(sha256)
    assert (published.length, published.seed, published.rows) == (length, seed, rows)
    assert published.size == len(contents)


def test_the_list_of_published_files_is_complete():
    assert [file.length for file in PUBLISHED if file.collection == "historical"] == [
        *range(2, 11),
        16,
    ]
    assert [file.length for file in PUBLISHED if file.collection == "current"] == list(range(2, 21))
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in PUBLISHED)
    assert len({file.sha256 for file in PUBLISHED}) == len(PUBLISHED) - 1  # length 2 never changed
    assert find_published("0" * 64) is None


def test_current_sizes_follow_from_the_format():
    """1,000,000 rows with a seed of about six digits; 5/6 of the tokens have two digits."""
    for file in PUBLISHED:
        if file.collection == "current" and file.length >= 4:
            expected = 10**6 * (6 + 1 + 2 * file.length * (1 + 5 / 6 + 1))
            assert file.size == pytest.approx(expected, rel=0.03)


def test_written_files_are_read_back(tmp_path):
    inputs, targets = historical_rows(5, 1, 30_000)  # more than one block of the reader
    path = tmp_path / "words.csv"
    write_word_file(path, 123456789, inputs, targets)
    words = read_word_file(path)
    assert np.array_equal(words.inputs, inputs)
    assert np.array_equal(words.targets, targets)
    assert set(words.seeds.tolist()) == {123456789}
    check_word_file(path, words, parse_group("A5"))


def test_file_text(tmp_path):
    path = tmp_path / "words.csv"
    write_word_file(path, 9, np.array([[1, 22]]), np.array([[1, 3]]))
    assert path.read_bytes() == b"seed,input,target\n9,1 22,1 3\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed,input,target", "seed,inputs,target", "line 1: must be 'seed,input,target'"),
        ("seed,input", "version https://git-lfs.github.com/spec/v1", "line 1: this is a Git LFS"),
        ("7,ROW2", "7;ROW2", "line 3: must be 'seed,a b c,x y z'"),
        ("7,ROW2", "7,1 ROW2", "line 3: must be 'seed,a b c,x y z'"),
        ("7,ROW2", "7,-ROW2", "line 3: must be 'seed,a b c,x y z'"),
        ("7,ROW2", "x,ROW2", "line 3: must be 'seed,a b c,x y z'"),
        ("7,ROW2", "7,é ROW2", "line 3: must be 'seed,a b c,x y z'"),
        ("7,ROW2", "\n7,ROW2", "line 3: must be 'seed,a b c,x y z'"),
        ("7,ROW2", "7,ROW1", "line 3: inputs repeat those of line 2"),
        ("7,ROW1", "7,60 0 0,60 60 60", "line 2: tokens must be 0 to 59 for A5, got 60"),
        ("7,ROW1", "7,1 0 0,1 1 2", "line 2: targets must be .* 2 at position 3"),
    ],
)  # fmt: skip
def test_damage_is_reported_with_file_and_line(small_file, old, new, message):
    text = small_file.read_text()
    rows = [line.removeprefix("7,") for line in text.splitlines()]
    for number in (1, 2):
        old, new = (part.replace(f"ROW{number}", rows[number]) for part in (old, new))
    small_file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"words\.csv, {message}"):
        check_word_file(small_file, read_word_file(small_file), parse_group("A5"))


def test_cut_and_empty_files_are_damaged(small_file):
    whole = small_file.read_bytes()
    for end, line in ((len(whole) - 9, 21), (18, 2), (17, 2), (5, 1), (0, 1)):
        small_file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=rf"words\.csv, line {line}: must be"):
            read_word_file(small_file)


def encode(words, columns, quoting, line_end, last, blank, encoding, *, compressed: bool) -> bytes:
    """The same words as another program may have written them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=line_end)
    writer.writerow(columns)
    for seed, *rows in zip(*words, strict=True):
        fields = [int(seed), *(" ".join(map(str, row)) for row in rows)]
        named = dict(zip(("seed", "input", "target"), fields, strict=True))
        writer.writerow([named[column] for column in columns])
    whole = text.getvalue().removesuffix(line_end) + last * line_end
    contents = (whole + "".join(each + line_end for each in blank)).encode(encoding)
    return gzip.compress(contents, mtime=0) if compressed else contents


ENCODINGS = st.fixed_dictionaries(
    {
        "columns": st.permutations(["seed", "input", "target"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        "line_end": st.sampled_from(["\n", "\r\n", "\r"]),
        "encoding": st.sampled_from(["ascii", "utf-8-sig", "utf-16"]),
        "compressed": st.booleans(),
    }
)


@given(
    how=ENCODINGS,
    blank=st.none() | st.lists(st.sampled_from(["", " ", "\t"]), max_size=3),
    suffix=st.sampled_from([".csv", ".csv.gz", ""]),
    length=st.integers(1, 4),
    rows=st.integers(1, 5),
)
@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_another_encoding_has_the_same_words(how, blank, suffix, length, rows, tmp_path):
    """`blank` lines follow the last row, which has no end of its own if that is None."""
    inputs, targets = historical_rows(length, 7, rows)
    words = (np.arange(rows) + 10**17, inputs, targets)
    path = tmp_path / f"words{suffix}"
    path.write_bytes(encode(words, last=blank is not None, blank=blank or [], **how))
    read = read_word_file(path)
    for expected, found in zip(words, read, strict=True):
        assert np.array_equal(expected, found)
    check_word_file(path, read, parse_group("A5"))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"seed,input\n7,1 2\n", "line 1: must be 'seed,input,target', in any order"),
        (b"seed,input,target,seed\n", "line 1: must be 'seed,input,target', in any order"),
        (b"seed;input;target\n7;1 2;1 3\n", "line 1: must be .* got 'seed;input;target'"),
        (b"PK\x03\x04 a zip file", "line 1: must be .* plain text or compressed by gzip, got 'PK"),
        (b"target,seed,input\n1 3,7,1 2\n1,7,1 2\n", "line 3: must be 'x y z,seed,a b c'"),
        (b"\nseed,input,target\n7,1 2,1 3\n", "line 1: must be"),
        (b"seed,input,target\n\n\n7,1 2,1 3\n", "line 2: must be .* blank lines at the end only"),
        (b"seed,input,target\n7,1 2,1 3\n7\n", "line 3: must be .* got '7'"),
        (b"seed,input,target\n,,\n", "line 2: must be .* got ',,'"),
        (b'seed,input,target\n7,"1\n2",1 3\n', r"line 3: must be .* got '7,1\\n2,1 3'"),
        (b'seed,input,target\n7,"1 2",1 3\n7,"2 1,1 4\n', "line 3: must be CSV, got unexpected"),
        (b'seed,input,target\n7,"1" 2,1 3\n', "line 2: must be CSV, got ',' expected"),
        (ZIPPED[:-9], " must be whole, got damaged gzip"),
        (ZIPPED + b"x", " must be whole, got damaged"),
        (b"\x1f\x8b", " must be whole, got damaged gzip"),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_one_error(contents, message, tmp_path):
    path = tmp_path / "words.csv"
    path.write_bytes(contents)
    with pytest.raises(DamagedData, match=rf"words\.csv[,:] ?{message}") as raised:
        read_word_file(path)
    assert "\n" not in str(raised.value)


@pytest.fixture
def two_seconds():
    """A test that waits for ever fails instead."""

    def stop(*_) -> None:
        raise AssertionError("it takes too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(2)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["device", "pipe", "link to a device"])
def test_what_is_no_regular_file_is_refused_unread(kind, tmp_path, two_seconds):
    path = tmp_path / "words.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(OSError, match="Not a regular file") as raised:
        read_word_file(path)
    assert raised.value.filename == path


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (2**40, "must have at most 1,073,741,824 bytes"),
        (2**29, "line 1: must have at most 262,144"),
    ],
)
def test_a_huge_file_or_line_is_refused_unread(size, message, tmp_path, two_seconds):
    path = tmp_path / "words.csv"
    with path.open("wb") as file:
        file.truncate(size)
    with pytest.raises(DamagedData, match=message):
        read_word_file(path)


def test_a_small_file_that_is_huge_when_decompressed_is_refused(tmp_path, monkeypatch, two_seconds):
    path = tmp_path / "words.csv.gz"
    path.write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(DamagedData, match="line 1: must have at most 262,144"):
        read_word_file(path)
    monkeypatch.setattr("tasks.a5_files.MAX_SIZE", 10_000)
    path.write_bytes(gzip.compress(b"seed,input,target\n" + b"7,1 2,1 3\n" * 10_000, mtime=0))
    with pytest.raises(DamagedData, match="line 1000: must be within the first 10,000 characters"):
        read_word_file(path)


def test_damage_far_into_a_file_is_located(tmp_path):
    path = tmp_path / "words.csv"
    write_word_file(path, 1, *historical_rows(3, 1, 25_000))
    lines = path.read_text().splitlines(keepends=True)
    lines[24_000] = "broken\n"
    path.write_text("".join(lines))
    with pytest.raises(ValueError, match=r"line 24001: .* got 'broken"):
        read_word_file(path)


def test_length_two_comes_in_product_order_whatever_the_seed():
    inputs, _ = historical_rows(2, 0, 3600)
    assert np.array_equal(inputs, np.stack(np.divmod(np.arange(3600), 60), axis=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1), "length must be"),
        ((2, -1, 1), "seed must be"),
        ((2, 1, 0), "rows must be"),
        ((2, 1, 3601), "rows must be an integer of at least 1 and at most 3,600, got 3601"),
    ],
)
def test_impossible_draws_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        historical_rows(*arguments)


def test_command_line_regenerates_and_verifies(command_line, tmp_path, capsys):
    path = str(tmp_path / "A5=3.csv")
    options = ["--length", "3", "--seed", "892858", "--rows", "10000", path]
    assert command_line(["regenerate", *options]) == 0
    printed = capsys.readouterr().out
    assert "bf8115a4e5566db1113dde9f2068ea688d167a9b6c01c98ba36294fef273aee7" in printed
    assert "the historical file A5=3.csv of jopetty/word-problem, 10,000 rows" in printed
    assert command_line(["verify", path]) == 0
    assert "the historical file A5=3.csv" in capsys.readouterr().out


def test_command_line_describes_other_files(command_line, small_file, tmp_path, capsys):
    assert command_line(["verify", str(small_file)]) == 1
    printed = capsys.readouterr().out
    assert "not one of the files of jopetty/word-problem" in printed
    assert "contents valid: 20 distinct rows of length 3" in printed
    small_file.write_bytes(small_file.read_bytes()[:-3])
    assert command_line(["verify", str(small_file)]) == 1
    assert "contents not valid: " in capsys.readouterr().out
    options = ["--length", "4", "--seed", "5", "--rows", "10", str(tmp_path / "own.csv")]
    assert command_line(["regenerate", *options]) == 0
    assert "not one of the files" in capsys.readouterr().out


def test_command_line_reports_bad_usage(command_line, tmp_path, capsys):
    assert command_line(["verify", str(tmp_path / "missing.csv")]) == 2
    assert "missing.csv" in capsys.readouterr().err
    options = ["--length", "1", "--seed", "1", "--rows", "61", str(tmp_path / "out.csv")]
    assert command_line(["regenerate", *options]) == 2
    assert "rows must be" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(SystemExit, match="2"):
        command_line(["verify"])


def test_script_runs_as_a_program(small_file):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), "verify", str(small_file)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert "contents valid" in result.stdout
