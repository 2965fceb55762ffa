"""The rotation of a brick: structured and in registers if it has 128 voxels, else by a matrix."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from seg3d.probing.coder import STRUCTURED
from seg3d.probing.kernels.cpu.compiler import compiled
from seg3d.probing.kernels.cpu.instructions import F32, I32

LANES = 16  # of a vector; LLVM takes two or four of a machine's where these are shorter
FLOATS, WORDS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
SIGN = 1 << 31


@compiled
def rotate(x, rotation, backwards, room):
    """Rotate x, ``(voxels,)`` float32, in place; room is another array like it.

    ``rotation`` is :func:`seg3d.probing.coder.rotation_matrix` in float32, and its flips.
    """
    matrix, flips = rotation
    n = len(x)
    if n == STRUCTURED:
        one = 1 if backwards else 0
        _rotate_structured(x, flips[one], flips[1 - one])
        return
    for i in range(n):
        room[i] = 0
    if backwards:
        for i in range(n):
            total = x[0] * matrix[i, 0]
            for j in range(1, n):
                total += x[j] * matrix[i, j]
            room[i] = total
    else:
        for j in range(n):
            value = x[j]
            for i in range(n):
                room[i] += value * matrix[j, i]
    for i in range(n):
        x[i] = room[i]


@intrinsic
def _rotate_structured(typingctx: Any, x: Any, first: Any, second: Any) -> Any:
    """Three Hadamard transforms, with signs before the second and the third."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        numbers, *flips = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args, values, strict=True)
        )
        vectors = [_load(builder, numbers, FLOATS, start) for start in range(0, STRUCTURED, LANES)]
        vectors = _hadamard(builder, vectors)
        for words in flips:
            vectors = [
                _flipped(builder, vector, _load(builder, words, WORDS, LANES * place))
                for place, vector in enumerate(vectors)
            ]
            vectors = _hadamard(builder, vectors)
        scale = ir.Constant(FLOATS, [STRUCTURED**-1.5] * LANES)
        for place, vector in enumerate(vectors):
            pointer = _pointer(builder, numbers, FLOATS, LANES * place)
            builder.store(builder.fmul(vector, scale), pointer, align=4)
        return context.get_dummy_value()

    return types.void(x, first, second), codegen


def _hadamard(builder: Any, vectors: list[Any]) -> list[Any]:
    """The transform of Sylvester's matrix, not normalised."""
    vectors, step = list(vectors), 1
    while step < len(vectors):
        for place in range(len(vectors)):
            if not place & step:
                one, other = vectors[place], vectors[place + step]
                vectors[place] = builder.fadd(one, other)
                vectors[place + step] = builder.fsub(one, other)
        step *= 2
    return [_hadamard_within(builder, vector) for vector in vectors]


def _hadamard_within(builder: Any, vector: Any) -> Any:
    step = 1
    while step < LANES:
        lanes = range(LANES)
        partners = ir.Constant(WORDS, [lane ^ step for lane in lanes])
        partner = builder.shuffle_vector(vector, ir.Constant(FLOATS, ir.Undefined), partners)
        minus = ir.Constant(WORDS, [SIGN if lane & step else 0 for lane in lanes])
        vector = builder.fadd(partner, _flipped(builder, vector, minus))
        step *= 2
    return vector


def _flipped(builder: Any, vector: Any, words: Any) -> Any:
    return builder.bitcast(builder.xor(builder.bitcast(vector, WORDS), words), FLOATS)


def _pointer(builder: Any, data: Any, kind: Any, start: int) -> Any:
    return builder.bitcast(builder.gep(data, [I32(start)]), kind.as_pointer())


def _load(builder: Any, data: Any, kind: Any, start: int) -> Any:
    return builder.load(_pointer(builder, data, kind, start), align=4)
