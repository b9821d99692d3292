"""Weights in 8 and 4 bits: knows layers and tensors, no model and no file.

    from heliodor.quant import recipe
    model = heliodor.load("google/paligemma-3b-mix-224", quantize="int8")

``scheme`` says which layer is stored how, ``pack`` makes codes of weights, ``linear`` holds the
layers that work with them, ``apply`` puts those into a network. Products run in ``kernels``, or,
where no native library was built, in ``torch_products``; ``products`` chooses.

Importing this package loads no torch.
"""

from heliodor.quant.scheme import INT4, INT8, RECIPES, Recipe, Rule, Scheme, recipe

__all__ = ["INT4", "INT8", "RECIPES", "Recipe", "Rule", "Scheme", "recipe"]
