"""Types of parameters: what their values may be."""

from typing import Annotated, Literal

from pydantic import Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Sides = Annotated[list[Count], Field(min_length=1)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
LearningRate = Annotated[float, Field(gt=0)]
WeightDecay = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["float32", "bfloat16"]
Initialization = Literal["pytorch", "he", "zero"]  # see `models.initialize`
# Channels of a convolution. PyTorch 2.13.0 crashed in the backward pass of 4 channels that lie last in memory.
Width = Annotated[int, Field(ge=8, lt=2**16, multiple_of=8)]
ThreeWidths = Annotated[list[Width], Field(min_length=3, max_length=3)]
