"""2,000 mutated files through every reader: each is read, or is one line of ours; no other file is touched.

Deterministic by SEED. Half of the mutations are blind (bits, cuts, copies), half know the format (PNG chunks with correct checksums, JSON values,
safetensors headers, cells of parquet), so that many get past the header and many leave a file that can still be read."""

from __future__ import annotations

import ast
import io
import json
import random
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors import safe_open
from safetensors.numpy import save as save_safetensors

import sweep.control
import sweep.folder
import sweep.launches
import sweep.live_file
import sweep.record_files
import sweep.records
import trainables.adapters
import trainables.foreign
import trainables.metadata
import trainables.model_folders
import trainables.photographs
import trainables.subject
import trainables.subject_images
from sweep.errors import RecordsError, SweepError
from sweep.folder import StudyFolder
from sweep.records import EVALUATIONS, IMAGES, TRIALS, Records, as_rows
from sweep.study import Study
from sweep.trial_rows import trial_of_row
from sweep.worker import known_outcomes
from trainables import checksums
from trainables.adapter_files import header_bytes
from trainables.adapters import AdapterStore, peft_layout
from trainables.folder_files import Listing
from trainables.lora import Adapter
from trainables.pack import TrainingState
from trainables.storage import line_of

SEED = 20261128
N_CASES = {"images": 800, "texts": 400, "safetensors": 300, "json": 400, "parquet": 100}
KEY = "0123456789abcdef"

READERS = {
    sweep.control: ("read_wishes", "_read"),
    sweep.folder: ("read_description",),
    sweep.launches: ("read_launches",),
    sweep.live_file: ("read_moment",),
    sweep.record_files: ("read_view",),
    sweep.records: ("_read_files", "_is_damaged", "_each_readable", "_cells"),
    trainables.adapters: ("load_state", "read_adapter", "_read"),
    trainables.foreign: ("_shapes", "_json_object"),
    trainables.metadata: ("read_text", "parse_object", "_rows_of_list", "_lines_of_jsonl", "_lines_of_csv"),
    trainables.model_folders: ("tensor_shapes", "read_config"),
    trainables.photographs: ("why_unusable", "opened_image", "_why_unusable", "_exif_of", "_in_srgb"),
    trainables.subject: ("_read_description",),
    trainables.subject_images: ("caption_beside", "_problems_of_row"),
}
"""The functions that read what lies on disk. Every `except` of theirs must be reached."""

NO_FILES_FAULT = {("sweep.records", "FileNotFoundError")}
"""What only a compaction in the same moment raises; test_durability.py does that."""


# ---- what is mutated


@dataclass
class Kind:
    """Files of a kind, how a case is read, and whether one is past its header. `read` gets the mutated file's path."""

    seeds: list[tuple[str, bytes]]  # path within the tree, content
    read: Callable[[Path], Any]
    is_past_header: Callable[[Path], bool]
    knowing: Callable[[random.Random, bytes], bytes]  # a mutation that knows the format


def picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).convert(mode)


def pictures_in_all_formats() -> Iterator[tuple[str, bytes]]:
    """A picture in every format that Pillow writes, some in several modes, with EXIF, a profile and texts where they can be."""
    Image.init()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "Camera", "2026:11:28 07:00:00"
    from PIL import ImageCms

    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat, Steps: 20")
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"):
            for extra in ({"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "pnginfo": info}, {}):
                written = io.BytesIO()
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        picture("I" if mode == "I;16" else mode).save(written, kind, **extra)
                except Exception:  # not in this format, mode or with these
                    continue
                suffix = kind.lower()
                yield f"photographs/a.{suffix if suffix in ('png', 'webp', 'bmp', 'tiff') else 'jpg' if kind == 'JPEG' else 'png'}", written.getvalue()


def pictures_of_bad_sizes() -> Iterator[tuple[str, bytes]]:
    for size in ((8, 8), (64, 3), (40_000, 40)):
        written = io.BytesIO()
        Image.new("1", size).save(written, "PNG")
        yield "photographs/a.png", written.getvalue()


def read_image(path: Path) -> None:
    problem = trainables.photographs.why_unusable(path)
    if problem is not None:
        raise trainables.photographs.SubjectError(problem)
    # What the check accepts, training and `prepare` can use.
    read = trainables.photographs.read_rgb(path)
    assert np.asarray(read).shape == (read.height, read.width, 3)
    trainables.photographs.read_photograph(path, least_side_pixels=32)


def is_image(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path):
                return True
    except Exception:
        return False


def in_image(rng: random.Random, content: bytes) -> bytes:
    if content.startswith(b"\x89PNG"):
        return with_png_chunks(rng, content)
    start = len(content) // 8  # behind the header in most formats
    return content[:start] + bits(rng, content[start:])


def with_png_chunks(rng: random.Random, content: bytes) -> bytes:
    """The PNG with a chunk changed, dropped, doubled or moved; all checksums are right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    which = rng.randrange(len(chunks))
    kind, data = chunks[which]
    choice = rng.randrange(5)
    if choice == 0:
        chunks[which] = (kind, blind(rng, data) if data else b"x")
    elif choice == 1:
        del chunks[which]
    elif choice == 2:
        chunks.insert(which, (kind, data))
    elif choice == 3:
        chunks.insert(rng.randrange(1, len(chunks)), (rng.choice([b"tEXt", b"eXIf", b"iCCP", b"gAMA", b"tIME", b"zTXt", b"iTXt"]), rng.randbytes(9)))
    else:
        chunks.insert(rng.randrange(1, len(chunks)), chunks.pop(which))
    return content[:8] + b"".join(len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big") for k, d in chunks)


TEXTS = [
    ("photographs/a.txt", "J3NN13, smile, close-up, ünïcödé 猫\n".encode()),
    ("photographs/a.txt", "J3NN13, smile".encode("utf-16")),
    ("subject/subject.json", b'{"trigger": "J3NN13", "name": "jenny", "class_word": "woman"}'),
    ("subject/metadata.jsonl", b'{"file_name": "0.png", "split": "train", "captions": {"v2": "a, b", "v3": "c"}}\n{"file_name": "1.png", "text": "d"}\n'),
    ("table/metadata.csv", b'file_name,text,caption_v3\n0.png,"a, b",c\n1.png,d,\n'),
]


def read_text_of(path: Path) -> None:
    if path.suffix == ".txt":
        beside = Listing(path.parent, (path.with_name("a.png"), path), (), (), 0)
        trainables.subject_images.caption_beside(beside, path.with_name("a.png"))
        trainables.metadata.read_text(path)
        return
    trainables.subject.load_subject(path.parent)


def is_text(path: Path) -> bool:
    try:
        text = path.read_bytes().decode("utf-16" if path.read_bytes()[:2] == b"\xff\xfe" else "utf-8")
        return path.suffix != ".json" or isinstance(json.loads(text), dict)
    except (OSError, ValueError, RecursionError):
        return False


def in_text(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    which = rng.randrange(len(lines))
    if lines[which].startswith(b"{"):
        lines[which] = in_json(rng, lines[which])
    elif rng.random() < 0.5:
        lines[which] = lines[which].replace(b",", rng.choice([b";", b"\t", b",,", b'"', b"\r\n", b", new tag, "]))
    else:
        lines.insert(which, rng.choice([b"", b" ", b"# more", "ß".encode(), lines[which], b"y" * 140_000]))
    return b"\n".join(lines)


VALUES = [None, True, -1, 0, 3, 1e308, 10**30, "", "x", "y" * 300, "\ud800", "../../x", "/etc/passwd", "a\0b", [], {}, [[]], {"a": None}, ["at rungs"]]


def in_json(rng: random.Random, content: bytes) -> bytes:
    """The JSON with a value changed, a key dropped or added, or the whole nested deeply."""
    value = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(value)
    choice = rng.randrange(10)
    if choice == 0 or not places:
        value = rng.choice(VALUES)
    elif choice == 1:
        return b"[" * 100_000 if rng.random() < 0.5 else b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    else:
        node, key = rng.choice(places)
        if choice <= 3:
            del node[key]
        elif choice == 4 and isinstance(node, dict):
            node[rng.choice(["new", "", "stop", "\u00e9"])] = rng.choice(VALUES)
        elif choice <= 6 and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
            node[key] += rng.choice([1, 0.5, 100])  # still what it should be
        elif choice <= 6 and isinstance(node[key], str):
            node[key] += rng.choice(["x", " ", "é"])
        else:
            node[key] = rng.choice(VALUES)
    return json.dumps(value, indent=rng.choice([None, 1])).encode()


def a_state() -> TrainingState:
    generator = torch.Generator().manual_seed(0)
    layers = [{"mid.to_q": (torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator))} for _ in range(3)]
    return TrainingState(Adapter(2, 3.5, layers[0]), layers[1], layers[2], epoch=3, step=9)


def unsealed(content: bytes) -> bytes:
    """As it was written before there were checksums."""
    return content.replace(checksums._MARK.encode(), b" " * len(checksums._MARK), 1)


def safetensors_files(root: Path) -> Iterator[tuple[str, bytes]]:
    folder = AdapterStore(root / "adapters").save(KEY, a_state())
    for name in ("adapter.safetensors", "state.safetensors"):
        content = (folder / name).read_bytes()
        yield f"adapters/{KEY}/epoch-00003/{name}", content
        yield f"adapters/{KEY}/epoch-00003/{name}", unsealed(content)
    tensors, metadata = peft_layout(a_state().adapter)
    plain = {name: tensor.numpy() for name, tensor in tensors.items()}
    yield "adapters/lora.safetensors", save_safetensors(plain, metadata)
    yield "adapters/lora.safetensors", save_safetensors(plain, metadata | {"lora_adapter_metadata": "{"})
    # safetensors writes metadata in an order of its own each time, so the cases differ a little: these
    # keep the accepted ones well above a quarter.
    for _ in range(2):
        yield "adapters/lora.safetensors", save_safetensors(plain)
    yield "adapters/peft/adapter_model.safetensors", save_safetensors({f"base_model.model.{name}": value for name, value in plain.items()})


def read_safetensors(path: Path) -> None:
    if path.parent.name.startswith("epoch-"):
        AdapterStore(path.parents[2]).load_state(KEY, 3)
    else:
        found = trainables.foreign.find_foreign(path)
        _, metadata = trainables.foreign._read(path)
        if "lora_adapter_metadata" in metadata:
            trainables.foreign._json_object(metadata["lora_adapter_metadata"], path)
        assert found.digest


def is_safetensors(path: Path) -> bool:
    try:
        with safe_open(path, framework="np"):
            return True
    except Exception:
        return False


def in_header(rng: random.Random, content: bytes) -> bytes:
    """The file with its header's JSON changed, or its numbers alone."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.5:
        return content[: 8 + length] + bits(rng, data)
    try:
        texts = json.loads(header)
        metadata = texts.get("__metadata__", {})
        if metadata and rng.random() < 0.7:
            name = "lora_adapter_metadata" if "lora_adapter_metadata" in metadata and rng.random() < 0.5 else rng.choice(sorted(metadata))
            if rng.random() < 0.4:
                del metadata[name]
            else:
                metadata[name] = rng.choice(["", "x", "-1", "1e9", "[]", "{", metadata[name] + " ", '{"unet.r": 2}'])
            return header_bytes(texts) + data
        return header_bytes(json.loads(in_json(rng, header))) + data
    except (ValueError, RecursionError, AttributeError, TypeError):
        return blind(rng, content)


def json_files(root: Path) -> Iterator[tuple[str, bytes]]:
    from sweep.launches import LaunchEntry, Launches, Request, write_launches

    folder = StudyFolder(root, "study")
    folder.write_study(Study(name="study"), {"images of embedded:subject": "d"})
    yield "study/study.json", folder.description.read_bytes()
    entry = LaunchEntry("a", "host", 1, 10.0, 20.0, "finished", 0.5)
    write_launches(folder.launches, Launches(Request({"rank": "8"}, {"device": "cpu"}, "/x/s.py", "/x"), (entry, entry)))
    yield "study/launches.json", folder.launches.read_bytes()
    yield "study/control.json", json.dumps({"launch": "a", "stop": "now", "paused": False, "limits": {"samples": 30}}).encode()
    yield "study/pack.json", json.dumps({"device": "cpu", "n_slots": 4, "epochs_per_hour": 40.0, "epochs_per_hour_alone": 9.5}).encode()
    yield "study/live.json", b'{"launch": "a", "moment": {"study": "s", "elapsed_s": 3.0, "phase": "starting"}}'
    yield "model/config.json", b'{"_class_name": "UNet2DConditionModel", "in_channels": 4, "block_out_channels": [32, 64]}'


def read_json(path: Path) -> None:
    folder = StudyFolder(path.parents[1], "study")
    if path.name == "study.json":
        description = folder.read_description()
        assert int(description["samples"]) is not None and dict(description["fixed"]) is not None
    elif path.name == "launches.json":
        launches = sweep.launches.read_launches(path)
        assert isinstance(launches.hours + launches.gpu_hours, float | int)
    elif path.name == "control.json":
        sweep.control.Control(path, "a").wishes()
        try:
            sweep.control.read_wishes(path)
        except OSError as error:  # as it says that it raises
            raise SweepError(line_of(error)) from error
    elif path.name == "pack.json":
        from sweep.plan import measured_rates

        if sweep.record_files.read_view(path) is None:
            raise SweepError("passed over")
        measured_rates(folder)
    elif path.name == "live.json":
        sweep.live_file.read_moment(path, "a")
    else:
        trainables.model_folders.read_config(path.parent)


def is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def parquet_files(root: Path) -> Iterator[tuple[str, bytes]]:
    records = Records(root / "parquet")
    rungs = {"rung_values": [[3, 0.5, "e0"]], "train_losses": {"3": 0.1}, "labels": {"note": "x"}, "started_at": 1.0, "seconds": 2.0}
    for number in range(3):
        row = {"study": "s", "trial": f"t{number:04d}", "number": number, "state": "COMPLETE", "configuration": {"rank": 8}}
        records.append_trial({**row, **rungs, "objective": 0.5, "best_epoch": 3, "epochs": 3})
    row = {"evaluation_key": "e0", "training_key": KEY, "epoch": 3, "configuration": {"guidance": 3.0}, "lpips": 0.5, "fid": 80.0}
    images = [{"prompt": f"p{i}", "seed": i, "lpips": 0.1} for i in range(3)]
    records.append_evaluation({**row, "further_metrics": {"dinov2": 0.5}, "n_images": 3}, images, np.zeros((3, 8, 8, 3), np.uint8))
    for part in sorted((root / "parquet" / "records").rglob("*.parquet")):
        yield part.relative_to(root).as_posix(), part.read_bytes()
        yield part.relative_to(root).as_posix(), of_before(part.read_bytes())


def of_before(content: bytes) -> bytes:
    written = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(content)), written)
    return written.getvalue()


def read_parquet(path: Path) -> None:
    study = path.parents[2]
    records = Records(study)
    damaged = records.damaged_parts()
    try:
        rows = as_rows(records.latest_trials(), TRIALS), as_rows(records.evaluations(), EVALUATIONS), as_rows(records.images(), IMAGES)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Records(study, leave_out=damaged).images()
    if damaged:
        raise RecordsError("named as damaged")
    [trial_of_row(row) for row in rows[0]]
    known_outcomes(records)


def is_parquet(path: Path) -> bool:
    try:
        pq.ParquetFile(path).close()
        return True
    except Exception:
        return False


def in_cells(rng: random.Random, content: bytes) -> bytes:
    """The part with a cell changed, as a program of before there were checksums would have written it."""
    table = pq.read_table(io.BytesIO(content))
    name = rng.choice(table.column_names)
    kind = table.schema.field(name).type
    values = table[name].to_pylist()
    which = rng.randrange(len(values))
    if pa.types.is_string(kind):
        values[which] = rng.choice([None, "", "{", "[]", "{}", "null", "[1]", "[[1]]", '[["a", 1, 2]]', "x", "t0001", "[" * 10_000])
    elif pa.types.is_boolean(kind):
        values[which] = rng.choice([None, True, False])
    else:
        values[which] = rng.choice([None, 0, 1, 3])
    written = io.BytesIO()
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values, type=kind)), written)
    return written.getvalue()


# ---- mutations that know nothing


def bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])) if changed else ():
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def blind(rng: random.Random, content: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    b = min(b, a + 200)
    return rng.choice(
        [
            lambda: bits(rng, content),
            lambda: bits(rng, content[:200]) + content[200:],
            lambda: content[:a],
            lambda: content[:a] + content[b:],
            lambda: content[:b] + content[a:],
            lambda: content[:a] + rng.randbytes(rng.choice([1, 4, 60])) + content[a:],
            lambda: content[:a] + b"\xff" * (b - a) + content[b:],
            lambda: content[:a] + b"\0" * (b - a) + content[b:],
            lambda: content + rng.randbytes(8),
            lambda: rng.choice([b"", b"\0", b"\x80\x04\x95", b"PK\x03\x04", b"\xff\xfe\x00", rng.randbytes(300)]),
        ]
    )()


# ---- a case, and all of them


@dataclass
class Tally:
    """What came of all cases."""

    n: Counter = field(default_factory=Counter)
    n_past_header: Counter = field(default_factory=Counter)
    n_accepted: Counter = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    reached: set[tuple[str, int]] = field(default_factory=set)


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*") if not path.is_dir()}


def run_case(kind: Kind, name: str, root: Path, rng: random.Random, tally: Tally, case: str) -> None:
    where, content = rng.choice(kind.seeds)
    path = root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    before_it = path.read_bytes() if path.is_file() else None
    way = rng.random()
    if way < 0.06:  # no file at all, or something else in its place
        path.unlink(missing_ok=True)
        rng.choice([lambda: None, path.mkdir, lambda: path.symlink_to(path)])()
    else:
        path.write_bytes(kind.knowing(rng, content) if way < 0.55 else blind(rng, content))
    before = files_of(root)
    tally.n[name] += 1
    tally.n_past_header[name] += path.is_file() and kind.is_past_header(path)
    try:
        kind.read(path)
    except SweepError as error:
        if not str(error) or "\n" in str(error):
            tally.broken.append(f"{case} {where}: not one line: {error!s:.300}")
    except BaseException as error:  # whatever else it is, a user would see its traceback
        tally.broken.append(f"{case} {where}: {type(error).__name__}: {error!s:.300}")
    else:
        tally.n_accepted[name] += 1
    if files_of(root) != before:
        tally.touched.append(f"{case} {where}")
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    if before_it is not None:
        path.write_bytes(before_it)


def kinds_in(root: Path) -> dict[str, Kind]:
    for folder in ("subject", "table"):
        (root / folder).mkdir()
        for number in range(2):
            Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(root / folder / f"{number}.png")
    for where, content in TEXTS:
        if where.startswith(("subject", "table")):
            (root / where).write_bytes(content)
    (root / "table" / "subject.json").write_bytes(b'{"trigger": "J3NN13"}')
    return {
        "images": Kind([*pictures_in_all_formats(), *[*pictures_of_bad_sizes()] * 4], read_image, is_image, in_image),
        "texts": Kind(TEXTS, read_text_of, is_text, in_text),
        "safetensors": Kind(list(safetensors_files(root)), read_safetensors, is_safetensors, in_header),
        "json": Kind(list(json_files(root)), read_json, is_json, in_json),
        "parquet": Kind(list(parquet_files(root)), read_parquet, is_parquet, in_cells),
    }


@pytest.fixture(scope="module")
def tally(tmp_path_factory) -> Tally:
    root, found = tmp_path_factory.mktemp("fuzz"), Tally()
    kinds = kinds_in(root)
    files = {module.__file__ for module in READERS}

    def lines(frame, event, argument):
        if event == "line":
            found.reached.add((frame.f_code.co_filename, frame.f_lineno))
        return lines

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: lines if frame.f_code.co_filename in files else None)
    try:
        for name, n in N_CASES.items():
            for number in range(n):
                run_case(kinds[name], name, root, random.Random(f"{SEED} {name} {number}"), found, f"{name} {number}")
    finally:
        sys.settrace(before)
    return found


def test_two_thousand_mutated_files_are_read_or_are_one_line(tally):
    assert tally.n == N_CASES and sum(tally.n.values()) == 2000
    assert not tally.broken, "\n".join(tally.broken)


def test_no_other_file_is_touched(tally):
    assert not tally.touched


@pytest.mark.parametrize("name", N_CASES)
def test_a_quarter_gets_past_the_header_and_as_many_are_accepted(tally, name):
    assert tally.n_past_header[name] >= tally.n[name] / 4
    assert tally.n_accepted[name] >= tally.n[name] / 4


def excepts_of(module: Any, names: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
    """Function, first line and exception of each handler in these functions of a module."""
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            for handler in ast.walk(node):
                if isinstance(handler, ast.ExceptHandler):
                    yield node.name, handler.body[0].lineno, ast.unparse(handler.type) if handler.type else ""


def test_every_except_of_the_readers_is_reached(tally):
    found = [(module, *one) for module, names in READERS.items() for one in excepts_of(module, names)]
    assert {module for module, *_ in found} == set(READERS)
    missed = [
        f"{module.__name__}.{name}, line {line}: {error}"
        for module, name, line, error in found
        if (module.__file__, line) not in tally.reached and (module.__name__, error) not in NO_FILES_FAULT
    ]
    assert not missed, missed
