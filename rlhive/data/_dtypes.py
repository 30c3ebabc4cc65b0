"""Dtypes of columns: their names in a schema, and how NumPy and torch hold them.

bfloat16 is a dtype of torch; NumPy, Arrow and Parquet have none. Its 16 bits travel as they are::

    torch.bfloat16  ◄─ same bits ─►  NumPy: BFLOAT16, a structure of one uint16  ◄─ same bits ─►  Arrow: uint16

The structure is a dtype of its own, so that bits are never taken for integers: NumPy refuses to compute with it.
:func:`to_numbers` gives the numbers, :func:`cast_array` rounds numbers to bfloat16.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing torch takes seconds, and reading a manifest does not need it
    import torch

STRING = "string"
BFLOAT16_NAME = "bfloat16"
FLOAT_DTYPES = ("float64", "float32", "float16", BFLOAT16_NAME)
#: Unsigned integers for which torch has few kernels: it copies, indexes and compares them, and adds none.
UNSIGNED_DTYPES = ("uint32", "uint16")
#: Names that a field's dtype may have.
DTYPES = (*FLOAT_DTYPES, "int64", "int32", "int16", "int8", *UNSIGNED_DTYPES, "uint8", "bool", STRING)

#: The bits of bfloat16 numbers, in native byte order.
BFLOAT16 = np.dtype([(BFLOAT16_NAME, np.uint16)])

#: What turns a dtype that no column has into one that columns have.
_CONVERSIONS = {
    "uint64": "int64, where all numbers are below 2^63",
    "complex64": "float32 [..., 2], torch.view_as_real() of it",
    "complex128": "float64 [..., 2], torch.view_as_real() of it",
    "complex32": "float16 [..., 2], torch.view_as_real() of it",
    "longdouble": "float64",
    "float128": "float64",
    "float96": "float64",
}


@functools.cache
def to_numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype of arrays whose field has a dtype of DTYPES."""
    if name == STRING:
        return np.dtype(object)
    return BFLOAT16 if name == BFLOAT16_NAME else np.dtype(name)


@functools.lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype) -> str:
    """Return the name of a NumPy dtype as a schema writes it: ``"string"`` for the object dtype."""
    if dtype.hasobject:
        return STRING
    return BFLOAT16_NAME if dtype == BFLOAT16 else dtype.name


def suggest_conversion(name: str) -> str:
    """Return a sentence that says which dtype to convert to, after a space; empty where none is known."""
    target = _CONVERSIONS.get(name, "bfloat16 or float32" if name.startswith("float8") else "")
    return f" Convert it to {target}." if target else ""


def to_numbers(values: np.ndarray) -> np.ndarray:
    """Return an array that NumPy computes with: bfloat16 as float32, which is exact; others as they are."""
    if values.dtype != BFLOAT16:
        return values
    return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def cast_array(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return numbers in another dtype, BFLOAT16 included; the array itself where it has that dtype.

    bfloat16 is rounded from float32, to nearest and ties to even, as torch does.
    """
    if values.dtype == dtype:
        return values
    if dtype != BFLOAT16:
        return to_numbers(values).astype(dtype, copy=False)
    numbers = np.ascontiguousarray(to_numbers(values).astype(np.float32, copy=False))
    bits = numbers.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + half) >> np.uint32(16)).astype(np.uint16)
    quiet_nan = (bits >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return np.where(np.isnan(numbers), quiet_nan, rounded).view(BFLOAT16)


def view_bits(values: np.ndarray) -> np.ndarray:
    """Return floating-point numbers as unsigned integers of their bits; others as they are."""
    if values.dtype == BFLOAT16 or values.dtype.kind == "f":
        return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    return values


def tensor_to_array(tensor: "torch.Tensor") -> np.ndarray:
    """Return a tensor as an array that shares its memory where it is on the CPU."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def array_to_tensor(values: np.ndarray) -> "torch.Tensor":
    """Return an array that is no text as a tensor that shares its memory."""
    import torch

    if values.dtype == BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def adopt_array(values: Any) -> np.ndarray:
    """Return what a function of a user computed as an array: tensors too, and bfloat16 of other libraries."""
    if hasattr(values, "detach"):
        return tensor_to_array(values)
    array = np.asarray(values)
    is_foreign = array.dtype != BFLOAT16 and array.dtype.name == BFLOAT16_NAME  # that of ml_dtypes, which JAX uses
    return array.view(BFLOAT16) if is_foreign else array
