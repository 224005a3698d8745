"""Text and tables' columns as HDF5 has them, whoever wrote them: decoded here and nowhere else."""

from typing import Any

import h5py
import numpy as np
import pandas as pd

from scfl_green.errors import InputError


def text(value: object) -> str:
    """An attribute, which may be bytes, or an array of one value, as R writes it."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode() if isinstance(value, bytes) else str(value)


def texts(value: object) -> list[str]:
    """An attribute that lists names; a single one may be a scalar, and none anything that is not text."""
    return [text(name) for name in np.atleast_1d(np.asarray(value)) if isinstance(name, str | bytes)]


def column(item: h5py.Dataset | h5py.Group, categories: h5py.Dataset | None = None) -> Any:
    """Read a column of obs or var: text as str, whether it is stored as bytes or str, of fixed or variable length;
    numbers, truth values and categories as pandas has them, with missing values.

    Not by anndata, which leaves bytes undecoded or fails on them where a writer leaves its own attributes out.
    ``categories``: those of integer codes, which anndata 0.7 and Seurat store apart.
    """
    if categories is not None:
        return pd.Categorical.from_codes(item[()], column(categories))
    if isinstance(item, h5py.Dataset):
        return _text(item) if h5py.check_string_dtype(item.dtype) else item[()]
    if {"codes", "categories"} <= item.keys():
        return pd.Categorical.from_codes(item["codes"][()], column(item["categories"]))
    if {"values", "mask"} <= item.keys():
        return pd.array(np.where(item["mask"][()], None, column(item["values"])))
    kind = text(item.attrs.get("encoding-type", "unknown"))
    raise InputError(f"{item.name} is encoded as {kind!r}, which is no column; write it as text, numbers or categories")


def decoded(values: Any) -> Any:
    """A column in memory (a Series or an Index), with bytes among its values or categories as text."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return pd.Series(values).cat.rename_categories(decoded(values.dtype.categories))
    if values.dtype != object:
        return values
    return values.map(lambda value: value.decode() if isinstance(value, bytes) else value)


def _text(item: h5py.Dataset) -> np.ndarray:
    try:
        return item.asstr("utf-8")[()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{item.name} holds text that is not UTF-8 ({error.object[:30]!r}); write it as UTF-8"
        ) from None
