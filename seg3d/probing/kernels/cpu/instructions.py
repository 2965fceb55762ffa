"""Single instructions that numba has no words for; in a loop they become instructions on vectors.

Arrays are one-dimensional: numba counts who holds a part of one, which takes longer than reading
it, and asks of every index that it does not know whether it counts from the end. A bf16 tensor is
seen as one of uint16. Words have 32 bits, which numba's own arithmetic would make 64 of.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I16, I32, F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()


@intrinsic
def load(typingctx: Any, array: types.Type, index: types.Type) -> Any:
    """A number of a tensor in float32, from an index that is not negative."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = builder.load(_pointer(context, builder, array, *values))
        if array.dtype == types.float32:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), F32)

    return types.float32(array, types.int64), codegen


@intrinsic
def store(typingctx: Any, array: types.Type, index: types.Type, value: types.Type) -> Any:
    """Put a float32 where :func:`load` finds it: as the nearest bf16, of two the even one."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        *place, value = values
        pointer = _pointer(context, builder, array, *place)
        if array.dtype != types.float32:
            bits = builder.bitcast(value, I32)
            odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
            nearest = builder.add(bits, builder.add(odd, I32(0x7FFF)))
            # A NaN must not be rounded to infinity.
            is_nan = builder.fcmp_unordered("uno", value, value)
            nearest = builder.select(is_nan, I32(0x7FC00000), nearest)
            value = builder.trunc(builder.lshr(nearest, I32(16)), I16)
        builder.store(value, pointer)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.float32), codegen


def _pointer(context: Any, builder: Any, kind: types.Type, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def is_set(typingctx: Any, word: types.Type, place: types.Type) -> Any:
    """Whether the bit at this place of a word is one."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        moved = builder.lshr(values[0], builder.trunc(values[1], I32))
        return builder.icmp_unsigned("!=", builder.and_(moved, I32(1)), I32(0))

    return types.boolean(types.uint32, types.int64), codegen


@intrinsic
def with_bit(typingctx: Any, word: types.Type, flag: types.Type, place: types.Type) -> Any:
    """The word with a bit at this place, where there was none, if the flag is true."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, flag, place = values
        bit = builder.shl(builder.zext(flag, I32), builder.trunc(place, I32))
        return builder.or_(word, bit)

    return types.uint32(types.uint32, types.boolean, types.int64), codegen


@intrinsic
def signed_by(typingctx: Any, value: types.Type, word: types.Type, place: types.Type) -> Any:
    """The value if the bit at this place of a word is one, else minus the value."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value, word, place = values
        left = builder.sub(I32(31), builder.trunc(place, I32))
        flip = builder.and_(builder.shl(builder.not_(word), left), I32(1 << 31))
        return builder.bitcast(builder.xor(builder.bitcast(value, I32), flip), F32)

    return types.float32(types.float32, types.uint32, types.int64), codegen
