"""A file of torch.save in, its arrays by name out, without torch; nothing in the file is run.

Such a file is a pickle: a program that builds tensors, and could as well do anything else. Here it is not run. Its
operations are read one by one, and those by which torch writes a dictionary of tensors are carried out on plain lists,
dictionaries and numbers; whatever else the file asks for refuses it. Both of torch's formats are known: the zip archive, and
the stream that it wrote before version 1.6 and many published weights are still in.
"""

import io
import mmap
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mmdiff.models.pretrained import CheckpointError

# What a class of storage holds.
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.dtype(jnp.bfloat16),
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
ORDERED, TENSOR, PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
KNOWN = {ORDERED, TENSOR, PARAMETER} | {f"torch {name}" for name in STORAGES}
MAGIC = 0x1950A86A20F9469CFC6C  # begins the older format


class _Refused(ValueError):
    """The file asks for something else than tensors."""


class _Name(NamedTuple):
    """What a pickle would import: here, only its name."""

    name: str


class _Storage(NamedTuple):
    """Numbers in a row, to be found in the file."""

    key: str
    kind: str  # of STORAGES
    numbers: int


class _Tensor(NamedTuple):
    """A view of a storage."""

    storage: _Storage
    first: int
    shape: tuple
    strides: tuple


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file that torch.save wrote of a dictionary of tensors, in the file's own types.

    Raises CheckpointError where it is damaged, or holds or asks for anything else.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            found, numbers = _read_archive(path)
        else:
            found, numbers = _read_stream(path)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise _Refused(f"it holds a {type(found).__name__} and no dictionary by names")
        if others := [name for name, value in found.items() if not isinstance(value, _Tensor)]:
            raise _Refused(f"its {others[0]!r} is no tensor: save the model's state_dict alone")
        return {name: _array(tensor, numbers) for name, tensor in found.items()}
    except _Refused as error:
        raise CheckpointError(f"{path} is not read, and nothing in it was run: {error}") from None
    except Exception as error:  # noqa: BLE001  what a damaged zip archive or pickle makes its reader raise has no end
        raise CheckpointError(
            f"{path} is not a whole file of torch.save ({type(error).__name__}: {error}); copy it again"
        ) from None


def _array(tensor: _Tensor, numbers: Callable[[_Storage], np.ndarray]) -> np.ndarray:
    row = numbers(tensor.storage)
    if len(row) < tensor.storage.numbers:
        raise ValueError(f"storage {tensor.storage.key} has {len(row)} numbers, not {tensor.storage.numbers}")
    size = row.itemsize
    if any(x < 0 for x in (tensor.first, *tensor.shape, *tensor.strides)) or tensor.first > len(row):
        raise ValueError(f"a tensor lies outside storage {tensor.storage.key}")
    # NumPy checks that the view stays within the buffer.
    strides = tuple(size * stride for stride in tensor.strides)
    return np.ndarray(tensor.shape, row.dtype, row[tensor.first :], 0, strides)


def _read_archive(path: Path) -> tuple[object, Callable[[_Storage], np.ndarray]]:
    """What the archive holds, and how to read a storage of it."""
    archive = zipfile.ZipFile(path)
    entries = {info.filename: info for info in archive.infolist()}
    programs = [name for name in entries if name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise _Refused(f"it is a zip archive with {len(programs)} data.pkl instead of one")
    folder = programs[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        if entries[name].compress_type != zipfile.ZIP_STORED:
            raise _Refused(f"its {name} is compressed, and torch compresses nothing")
        if entries[name].file_size > path.stat().st_size:
            raise ValueError(f"its {name} would be larger than the file")
        return archive.read(name)

    if (order := folder + "byteorder") in entries and content(order) != b"little":
        raise _Refused(f"its numbers are in the order {content(order)!r}; save it on an ordinary machine")
    kept: dict[str, np.ndarray] = {}

    def numbers(storage: _Storage) -> np.ndarray:
        if storage.key not in kept:
            kept[storage.key] = np.frombuffer(content(f"{folder}data/{storage.key}"), STORAGES[storage.kind])
        return kept[storage.key].view(STORAGES[storage.kind])

    return _interpret(io.BytesIO(content(programs[0]))), numbers


def _read_stream(path: Path) -> tuple[object, Callable[[_Storage], np.ndarray]]:
    """What a file of before torch 1.6 holds: four pickles, the keys of the storages, then each one's numbers."""
    # Mapped, so that a damaged length asks for no more memory than the file has.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        try:
            magic = _interpret(file)
        except ValueError:
            magic = None
        if magic != MAGIC:
            raise _Refused("it is not of torch.save at all, or is compressed or encrypted")
        _interpret(file)  # version
        if not _of(dict, _interpret(file)).get("little_endian", True):
            raise _Refused("its numbers are of a big-endian machine; save it on an ordinary one")
        storages: dict[str, _Storage] = {}
        found = _interpret(file, storages)
        kept = {}
        for key in _interpret(file):
            storage = storages[key]
            stated = int.from_bytes(file.read(8), "little")
            if stated != storage.numbers:
                raise ValueError(f"storage {key} has {stated} numbers, not {storage.numbers}")
            dtype = np.dtype(STORAGES[storage.kind])
            kept[key] = np.frombuffer(file.read(stated * dtype.itemsize), dtype)
        return found, lambda storage: kept[storage.key]


def _interpret(file: io.BytesIO | mmap.mmap, storages: dict[str, _Storage] | None = None) -> object:
    """What the next pickle of a file would make, of lists, dictionaries, numbers, texts, _Storage and _Tensor.

    `storages` gets each storage by its key. Raises ValueError where the pickle is damaged, _Refused where it asks for more.
    """
    stack, marks, memo = [], [], {}

    def since_mark() -> list:
        first = marks.pop()
        taken = stack[first:]
        del stack[first:]
        return taken

    def several(count: int) -> list:
        if len(stack) < count:
            raise ValueError("its pickle takes more than it has made")
        return [stack.pop() for _ in range(count)][::-1]

    for operation, argument, _ in pickletools.genops(file):
        match operation.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(operation.name == "NEWTRUE")
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE" | "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "LIST":
                stack.append(since_mark())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(several(int(operation.name[-1]))))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND":
                (value,) = several(1)
                _of(list, stack[-1]).append(value)
            case "APPENDS":
                values = since_mark()
                _of(list, stack[-1]).extend(values)
            case "SETITEM":
                key, value = several(2)
                _of(dict, stack[-1])[key] = value
            case "SETITEMS":
                values = since_mark()
                _of(dict, stack[-1]).update(zip(values[::2], values[1::2], strict=True))
            case "BUILD":  # A state_dict carries the versions of its modules.
                several(1)
                _of(dict, stack[-1])
            case "GLOBAL" | "STACK_GLOBAL":
                name = argument if operation.name == "GLOBAL" else " ".join(map(str, several(2)))
                if name not in KNOWN:
                    raise _Refused(f"it asks for {name.replace(' ', '.')}, which no tensor needs")
                stack.append(_Name(name))
            case "REDUCE":
                function, arguments = several(2)
                stack.append(_made(function, arguments))
            case "BINPERSID":
                storage = _storage(*several(1))
                if storages is not None:
                    storages[storage.key] = storage
                stack.append(storage)
            case other:
                raise _Refused(f"it has the pickle operation {other}, which no tensor needs")
    raise ValueError("its pickle has no end")


def _of(kind: type, value: object):
    if not isinstance(value, kind):
        raise TypeError(f"its pickle takes a {type(value).__name__} for a {kind.__name__}")
    return value


def _made(function: object, arguments: object) -> object:
    """What one of the few known functions makes of its arguments."""
    match function, arguments:
        case _Name(name), () if name == ORDERED:
            return {}
        case _Name(name), (list(pairs),) if name == ORDERED:
            return dict(pairs)
        case _Name(name), (_Storage() as storage, int(first), tuple(shape), tuple(strides), *_) if name == TENSOR:
            if len(shape) != len(strides) or not all(isinstance(x, int) for x in (*shape, *strides)):
                raise ValueError(f"a tensor of shape {shape} has strides {strides}")
            return _Tensor(storage, first, shape, strides)
        case _Name(name), (_Tensor() as tensor, *_) if name == PARAMETER:
            return tensor
    raise _Refused("it calls something with what no tensor is made of")


def _storage(described: object) -> _Storage:
    match described:
        case ("storage", _Name(kind), str(key), str(), int(numbers), *view) if view in ([], [None]):
            if kind.removeprefix("torch ") in STORAGES:
                return _Storage(key, kind.removeprefix("torch "), numbers)
    raise _Refused(f"it refers to {described!r}, which is no storage of numbers")
