"""Lays out files of scanners: to learn from, to evaluate on, and a whole series.

    scans.py PYDICOM_DATA_WHEEL PYDICOM_WHEEL VOLUME.inv3 FOLDER

    FOLDER/train/{CT,MR,US}, FOLDER/eval/{CT,MR,US}    nobody is on both sides
    FOLDER/series                                      the volume's slices, each a file

The volume is one of InVesalius' examples, of which slices are written as CT files here, under the
name of a patient who does not exist: what is told of one must be seen to be told nowhere.
"""

import pathlib
import plistlib
import struct
import sys
import tarfile
import zipfile

# Files of both wheels, by side and class.
FILES = {
    "train/MR": ["emri_small.dcm", "MR2_UNCR.dcm"],
    "train/US": ["examples_ybr_color.dcm"],
    "eval/CT": ["693_UNCR.dcm", "CT_small.dcm"],
    "eval/MR": ["MR-SIEMENS-DICOM-WithOverlays.dcm", "MR_small.dcm"],
    "eval/US": ["examples_rgb_color.dcm", "US1_UNCR.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"],
}
LONG = {"OB", "OW"}
CT = "1.2.840.10008.5.1.4.1.1.2"
# Below 2.25, unique identifiers are numbers that anybody may choose (PS3.5, B.2).
ROOT = "2.25.329800735698586629295641978511506172918"


def element(group, number, kind, value):
    """An element, with explicit VR and little endian."""
    if isinstance(value, str):
        value = value.encode()
    if len(value) % 2:
        value += b"\0" if kind in ("UI", "OB") else b" "
    head = struct.pack("<HH2s", group, number, kind.encode())
    size = struct.pack("<HI", 0, len(value)) if kind in LONG else struct.pack("<H", len(value))
    return head + size + value


def slice_file(number, rows, columns, spacing, pixels):
    """A CT file of one slice of signed 16-bit Hounsfield units."""
    short = lambda value: struct.pack("<H", value)
    uid = f"{ROOT}.{number + 1}"
    meta = b"".join(
        [
            element(2, 0x01, "OB", b"\0\1"),
            element(2, 0x02, "UI", CT),
            element(2, 0x03, "UI", uid),
            element(2, 0x10, "UI", "1.2.840.10008.1.2.1"),
            element(2, 0x12, "UI", ROOT),
        ]
    )
    data = [
        element(0x08, 0x16, "UI", CT),
        element(0x08, 0x18, "UI", uid),
        element(0x08, 0x20, "DA", "20120914"),
        element(0x08, 0x60, "CS", "CT"),
        element(0x08, 0x80, "LO", "St. Elsewhere"),
        element(0x10, 0x10, "PN", "Doe^Jane"),
        element(0x10, 0x20, "LO", "SECRET-4711"),
        element(0x10, 0x30, "DA", "19310401"),
        element(0x18, 0x15, "CS", "HEAD"),
        element(0x20, 0x0D, "UI", f"{ROOT}.1000"),
        element(0x20, 0x0E, "UI", f"{ROOT}.1001"),
        element(0x20, 0x13, "IS", str(number + 1)),
        element(0x28, 0x02, "US", short(1)),
        element(0x28, 0x04, "CS", "MONOCHROME2"),
        element(0x28, 0x10, "US", short(rows)),
        element(0x28, 0x11, "US", short(columns)),
        element(0x28, 0x30, "DS", "\\".join(f"{length:.6g}" for length in spacing)),
        element(0x28, 0x100, "US", short(16)),
        element(0x28, 0x101, "US", short(16)),
        element(0x28, 0x102, "US", short(15)),
        element(0x28, 0x103, "US", short(1)),
        element(0x28, 0x301, "CS", "NO"),
        element(0x28, 0x1050, "DS", "40"),
        element(0x28, 0x1051, "DS", "400"),
        element(0x28, 0x1052, "DS", "0"),
        element(0x28, 0x1053, "DS", "1"),
        element(0x7FE0, 0x10, "OW", pixels),
    ]
    length = element(2, 0, "UL", struct.pack("<I", len(meta)))
    return b"\0" * 128 + b"DICM" + length + meta + b"".join(data)


def series(volume):
    """The slices of a project of InVesalius, as files."""
    with tarfile.open(volume) as project:
        member = lambda name: next(of for of in project.getmembers() if of.name.endswith(name))
        plist = plistlib.load(project.extractfile(member("main.plist")))
        matrix = plist["matrix"]
        depth, rows, columns = matrix["shape"]
        voxels = project.extractfile(member("matrix.dat")).read()
    assert matrix["dtype"] == "int16" and len(voxels) == 2 * depth * rows * columns
    spacing = [plist["spacing"][1], plist["spacing"][0]]
    size = 2 * rows * columns
    for number in range(depth):
        yield slice_file(number, rows, columns, spacing, voxels[number * size : (number + 1) * size])


def main():
    wheels = [zipfile.ZipFile(path) for path in sys.argv[1:3]]
    out = pathlib.Path(sys.argv[4])
    known = {}
    for wheel in wheels:
        for name in wheel.namelist():
            known.setdefault(name.rsplit("/", 1)[-1], (wheel, name))
    for folder, names in FILES.items():
        (out / folder).mkdir(parents=True)
        for name in names:
            wheel, path = known[name]
            (out / folder / name).write_bytes(wheel.read(path))
    for folder in ["series", "train/CT"]:
        (out / folder).mkdir(parents=True)
    for number, file in enumerate(series(sys.argv[3])):
        (out / "series" / f"{number:03}.dcm").write_bytes(file)
        # One slice of four is enough to learn from.
        if number % 4 == 0:
            (out / "train/CT" / f"{number:03}.dcm").write_bytes(file)


if __name__ == "__main__":
    main()
