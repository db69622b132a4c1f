"""From a checked call to what a kernel takes: views, sizes, features, the constants that it is compiled for. And calls that repeat."""

import functools
from dataclasses import dataclass

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from flashlab.kernels import configs, turing
from flashlab.kernels.shaping import Features, as_jit, features_of
from flashlab.kernels.tile import Packing, Shape, View, broadcast_view, view
from flashlab.remembered import Remembered
from flashlab.spec import NO_EXTRAS


def launch(kernel, programs, *arguments, arch=None, **constants):
    """Run a kernel over a one-dimensional grid, and return what Triton compiled. arch: see `flashlab.kernels.turing`."""
    if arch is not None:
        try:
            with turing.tensor_cores():
                return kernel[(programs,)](*arguments, arch=arch, **constants)
        except turing.UnexpectedPTX as error:
            turing.refuse(error)
    return kernel[(programs,)](*arguments, **constants)


@functools.cache
def multiprocessors(device_index):
    """How many the GPU has; 1 for None, where there is no GPU."""
    return 1 if device_index is None else torch.cuda.get_device_properties(device_index).multi_processor_count


def describe(x, rows):
    """A descriptor by which Hopper's copy engine brings `rows` rows of a head at a time."""
    return TensorDescriptor.from_tensor(x, [1, 1, rows, configs.block_d(x.shape[3])])


class Launch:
    """A kernel and all that it takes but tensors. No programs, no work.

    described: {place: tile} of tensors that the kernel takes as descriptors, not as views: describe(tensor, tile) makes them.
    """

    def __init__(self, kernel, programs, numbers, constants, view=view, described=None, describe=describe):
        self.kernel, self.programs, self.numbers, self.constants, self.view = kernel, programs, numbers, constants, view
        self.described, self.describe = described or {}, describe
        self.strides = self.rest = self.run = None  # what Triton made of them, and all that it wants to be passed but addresses

    def __call__(self, *tensors):
        if not self.programs:
            return
        if self.run is None:
            self._first(tensors)
        else:  # a call of JITFunction looks at every argument again, which takes longer than a small kernel runs
            arguments = list(map(_address, tensors, self.strides))
            for place, tile in self.described.items():
                arguments[place] = self.describe(tensors[place], tile)
            self.run(*arguments, *self.rest)

    def _first(self, tensors):
        arguments = [*map(self.view, tensors)]
        self.strides = [getattr(argument, "strides", None) for argument in arguments]
        for place, tile in self.described.items():
            arguments[place] = self.describe(tensors[place], tile)
        arguments += self.numbers
        self.rest = (*self.numbers, *(self.constants[name] for name in self.kernel.arg_names[len(arguments) :]))
        compiled = launch(self.kernel, self.programs, *arguments, **self.constants)
        if compiled is not None:  # Triton's interpreter compiles nothing
            self.run = compiled[self.programs, 1, 1]  # other threads may see it from here on


def _address(x, strides):
    """A tensor as what has been compiled takes it: of a View no more than an address and strides is left. None stays None."""
    if x is None:
        return None
    return x.data_ptr() if strides is None else (x.data_ptr(), strides)


_plans = Remembered()


def planned(plan, tensors, spec, extras, tiles=None, numbers=()):
    """The launches of `plan(*tensors, spec, extras, tiles, *numbers)`: those of an earlier call, where only the tensors' contents differ.

    Tensors that features bring along are part of a launch, so such calls are planned anew each time.
    """
    if extras is not NO_EXTRAS or tiles is not None:
        return plan(*tensors, spec, extras, tiles, *numbers)
    call = (plan, spec, numbers, tensors[0].device, configs.dot_precision(), *map(_signature, tensors))
    return _plans.get(call) or _plans.keep(call, plan(*tensors, spec, extras, tiles, *numbers))


def _signature(x):
    """All of a tensor that Triton compiles for."""
    return None if x is None else (x.dtype, x.shape, x.stride(), x.data_ptr() % 16)


@dataclass(frozen=True)
class Problem:
    """What the kernels of one call share."""

    batch: int  # batch elements, or packed sequences
    shape: Shape
    heads_kv: int
    packing: Packing
    features: Features
    row_blocks: View | None
    key_blocks: View | None
    constants: dict

    @classmethod
    def of(cls, query, key, value, spec, extras):
        starts_q, starts_k = extras.cu_seqlens_q, extras.cu_seqlens_k
        sequences = None if starts_q is None else len(starts_q) - 1
        return cls(
            batch=query.shape[0] if sequences is None else sequences,
            shape=Shape(query.shape[1], query.shape[2], key.shape[2]),
            heads_kv=key.shape[1],
            packing=Packing(starts_q, starts_k, sequences),
            features=features_of(spec, extras),
            row_blocks=broadcast_view(extras.row_blocks),
            key_blocks=broadcast_view(extras.key_blocks),
            constants=dict(
                BOTTOM_RIGHT=spec.bottom_right,
                SEQUENCES=1 if sequences is None else triton.next_power_of_2(max(1, sequences)),
                GROUP=query.shape[1] // key.shape[1],
                MASK_MOD=as_jit(spec.mask_mod),
                BIAS_MOD=as_jit(spec.bias_mod),
                FAST_TANH=configs.has_fast_tanh(query),
            ),
        )

    @property
    def packed(self):
        return self.packing.starts_q is not None

    def view(self, x):
        """A tensor as kernels take it. Packed sequences share one tensor: the next one begins a row later, not a batch later."""
        return View(x, (0, *x.stride()[1:]) if self.packed else x.stride())

    def row_tiles(self, config):
        """How many tiles of rows there are, over the whole batch, for each head."""
        return self._tiles(self.shape.seqlen_q, config.BLOCK_M)

    def key_tiles(self, config):
        return self._tiles(self.shape.seqlen_k, config.BLOCK_N)

    def _tiles(self, length, block):
        if self.packed:  # see `walk.owned_tile`
            return length // block + self.batch if self.batch else 0
        return triton.cdiv(length, block) * self.batch
