"""Bounds of settings, written as annotations of the arguments that they set."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

Count = PositiveInt
Seed = NonNegativeInt
# Of cells or units; not all of them.
Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# A dial that scales hidden sizes.
Width = Annotated[float, Field(gt=0, le=100)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
