"""Fixtures of more than one test file."""

from contextlib import nullcontext

import pytest


@pytest.fixture(params=["eager", "sdpa", "flex_attention"])
def attention(request):
    """Each back end. Flex runs uncompiled here: the same masks, without a minute of compiling."""
    import torch

    flex = request.param == "flex_attention"
    with torch.compiler.set_stance("force_eager") if flex else nullcontext():
        yield request.param
