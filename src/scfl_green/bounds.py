"""Bounds of settings, as type annotations of the arguments they set."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

Count = PositiveInt
Seed = NonNegativeInt
# A share of cells or units, below 1.
Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# A factor on hidden sizes.
Width = Annotated[float, Field(gt=0, le=100)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
