"""Dataframes: rows of plain data as a pandas dataframe. pandas is imported when one is made, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from replicate_core.errors import MissingExtra

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame  # noqa: PLC0414  # also for modules that only name the type


def frame(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> DataFrame:
    """A dataframe with a row for each of `rows`.

    Args:
        rows: column name to value. Columns that a row lacks are missing values in it.
        columns: the columns that always exist. They come first, in this order.

    Raises:
        MissingExtra: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415  # 0.5 s, and an extra
    except ImportError as error:
        raise MissingExtra(
            'dataframes need pandas, which is not installed: pip install pandas (the extra "replicate[notebook]" of '
            "this package)"
        ) from error
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    return pd.DataFrame(list(rows), columns=list(names))
