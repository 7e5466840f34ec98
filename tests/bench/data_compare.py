"""Which texts two preparations of the same rows left, row by row.

    python3 data_compare.py DIRECTORY.of.parquet FILE.parquet
"""

import json
import sys

import pyarrow.dataset

EXAMPLES = 3


def texts(path):
    table = pyarrow.dataset.dataset(path, format="parquet").to_table(columns=["id", "text"])
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist()))


def main():
    ours, theirs = (texts(path) for path in sys.argv[1:])
    rows = sorted(ours.keys() | theirs.keys())
    differ = [row for row in rows if ours.get(row) != theirs.get(row)]
    examples = [(ours.get(row), theirs.get(row)) for row in differ[:EXAMPLES]]
    print(json.dumps({"rows": len(rows), "differ": len(differ), "examples": examples}))


if __name__ == "__main__":
    main()
