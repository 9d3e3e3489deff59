"""Writes the published A5 files anew, or says whether a file is one of them.

python scripts/a5_files.py regenerate --length 3 --seed 892858 --rows 10000 A5=3.csv
python scripts/a5_files.py verify A5=3.csv

Exit status: 0 for a published file (or after writing any file), 1 for another file, 2 for bad usage
or a file that cannot be read or written.
"""

import argparse
import hashlib
import sys

from tasks.a5_files import check_word_file, historical_rows, read_word_file, write_word_file
from tasks.a5_published import SOURCE, PublishedFile, find_published
from tasks.groups import parse_group


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def regenerate(options: argparse.Namespace) -> int:
    """Writes the file that the published generator makes from these numbers."""
    try:
        inputs, targets = historical_rows(options.length, options.seed, options.rows)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_word_file(options.output, options.seed, inputs, targets)
    digest = sha256(options.output)
    published = find_published(digest)
    verdict = describe(published) if published else f"not one of the files of {SOURCE}"
    print(f"{options.output}: sha256 {digest}, {verdict}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compares a file with the published hashes, and checks the contents of any other file."""
    digest = sha256(options.file)
    published = find_published(digest)
    if published:
        print(f"{options.file}: sha256 {digest}, {describe(published)}")
        return 0
    print(f"{options.file}: sha256 {digest}, not one of the files of {SOURCE}")
    try:
        words = read_word_file(options.file)
        check_word_file(options.file, words, parse_group("A5"))
    except ValueError as error:
        print(f"contents not valid: {error}")
    else:
        rows, length = words.inputs.shape
        print(f"contents valid: {rows:,} distinct rows of length {length}, all targets right")
    return 1


def describe(file: PublishedFile) -> str:
    """Returns which published file this is, in words."""
    rows = "" if file.rows is None else f", {file.rows:,} rows"
    seed = "" if file.seed is None else f", seed {file.seed}"
    return f"the {file.collection} file A5={file.length}.csv of {SOURCE}{rows}{seed}"


def sha256(path: str) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parser() -> argparse.ArgumentParser:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    write = commands.add_parser("regenerate", help="write a published file anew, byte for byte")
    write.add_argument("--length", type=int, required=True, help="tokens per sequence")
    write.add_argument("--seed", type=int, required=True, help="seed of the published generator")
    write.add_argument("--rows", type=int, required=True, help="number of distinct sequences")
    write.add_argument("output", metavar="OUT.csv", help="file to write")
    write.set_defaults(command=regenerate)
    check = commands.add_parser("verify", help="compare a file with the published SHA-256 sums")
    check.add_argument("file", metavar="FILE", help="file to check")
    check.set_defaults(command=verify)
    return parser


if __name__ == "__main__":
    sys.exit(main())
