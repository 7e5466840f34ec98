"""Lays out the pictures of solar cells of a wheel as a folder with metadata.jsonl.

    cells.py WHEEL FOLDER

A cell is "defective" where its annotators' probability is above one half, else "accepted". Which
module a cell is of is not told; cells of a module follow one another, though, and modules have
about 60. "stretch" names so many cells of one type that follow one another.
"""

import json
import pathlib
import sys
import zipfile

STRETCH = 60


def main():
    wheel, out = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
    (out / "images").mkdir(parents=True)
    rows = [line.split() for line in wheel.read("elpv_dataset/data/labels.csv").decode().splitlines()]
    before, run, place = None, 0, 0
    with open(out / "metadata.jsonl", "w", encoding="utf-8") as metadata:
        for name, probability, kind in filter(None, rows):
            if kind != before:
                before, run, place = kind, run + 1, 0
            (out / name).write_bytes(wheel.read(f"elpv_dataset/data/{name}"))
            row = {
                "file_name": name,
                "label": "defective" if float(probability) > 0.5 else "accepted",
                "stretch": f"{kind}-{run}-{place // STRETCH}",
            }
            place += 1
            metadata.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
