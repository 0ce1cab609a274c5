"""Vectors of float64 in compiled code, for loops that the compiler does not vectorise by itself.

A position counts the numbers of a C-contiguous array of any shape; it is not checked. Where Numba
is switched off, the same functions work on small arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.cgutils import ir
from numba.extending import intrinsic, models, register_model

from infra.aliases import Array

_CONTRACT = ("contract",)
_LANE = ir.IntType(32)


class _Lanes(types.Type):
    """The type of a vector of ``count`` numbers."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"Lanes({count})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: _Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(ir.DoubleType(), lanes.count))


def _operation(plain: Callable[..., Any], typing: Callable[..., Any]) -> Any:
    """Return what compiled code calls, or without compiled code its plain form."""
    return plain if numba.config.DISABLE_JIT else intrinsic(typing)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, position: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [position])


def _loading(count: int) -> Any:
    lanes = _Lanes(count)

    def load(typing_context: Any, array: Any, position: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], *arguments)
            vector = context.get_value_type(lanes)
            return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=8)

        return lanes(array, types.intp), generate

    def plain(array: Array, position: int) -> Array:
        return array.reshape(-1)[position : position + count].copy()

    return _operation(plain, load)


def _repeating(count: int) -> Any:
    lanes = _Lanes(count)

    def repeat(typing_context: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            undefined = ir.Constant(context.get_value_type(lanes), ir.Undefined)
            single = builder.insert_element(undefined, arguments[0], _LANE(0))
            order = ir.Constant(ir.VectorType(_LANE, count), [0] * count)
            return builder.shuffle_vector(single, undefined, order)

        return lanes(types.float64), generate

    return _operation(lambda number: np.full(count, number, np.float64), repeat)


def _store(typing_context: Any, array: Any, position: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, vector = (
            _pointer(context, builder, signature.args[0], *arguments[:2]),
            arguments[2],
        )
        builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


def _plain_store(array: Array, position: int, lanes: Array) -> None:
    array.reshape(-1)[position : position + len(lanes)] = lanes


def _multiply_add(typing_context: Any, factor: Any, second_factor: Any, term: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        product = builder.fmul(*arguments[:2], flags=_CONTRACT)
        return builder.fadd(product, arguments[2], flags=_CONTRACT)

    return factor(factor, second_factor, term), generate


def _sum_4(typing_context: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = [builder.extract_element(arguments[0], _LANE(lane)) for lane in range(4)]
        return builder.fadd(builder.fadd(*numbers[:2]), builder.fadd(*numbers[2:]))

    return types.float64(lanes), generate


load_4, load_8 = _loading(4), _loading(8)
"""Read so many numbers of an array: (array, position)."""
repeat_4, repeat_8 = _repeating(4), _repeating(8)
"""Return a vector of one number: (number)."""
store = _operation(_plain_store, _store)
"""Write a vector into an array: (array, position, vector)."""
multiply_add = _operation(lambda factor, second, term: factor * second + term, _multiply_add)
"""Return the product of two vectors plus a third."""
sum_4 = _operation(np.sum, _sum_4)
"""Return the sum of a vector of four."""


def zeros(*sizes: int) -> Array:
    """Return an array of zeros (float64) that begins where a vector may in memory."""
    count, lanes = int(np.prod(sizes)), 8
    numbers = np.zeros(count + lanes)
    start = -(numbers.ctypes.data // numbers.itemsize) % lanes
    return numbers[start : start + count].reshape(sizes)
