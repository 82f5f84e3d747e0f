"""Random numbers that depend on what they are for and on nothing else: not on order, threads, shards or device.

A number is the splitmix64 finaliser (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) of key + (index + 1) *
0x9E3779B97F4A7C15, where `key` is the first 8 bytes of SHA-256 of the seed and the stream's name, and `index` the
flat, row-major position of the element in its tensor. All arithmetic is modulo 2**64, so that any device gives the
same bits. Shape suffix: N elements.
"""

import hashlib
import math

import torch

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
# Drawn as 24 bits: every value is a float32, and 1.0 is never drawn.
_BITS = 24


def stream(seed: int, *names: object) -> int:
    """The key of a stream of numbers: other names, other numbers."""
    text = "\x00".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def uniform(key: int, start: int, count: int, device: torch.device | None = None) -> torch.Tensor:
    """The numbers of the elements from `start`, in [0, 1), multiples of 2**-24, float32 [count]."""
    bits_N = _bits(key, start, count, device)
    return bits_N.to(torch.float32).mul_(2.0**-_BITS)


def keep(key: int, start: int, count: int, share: float, device: torch.device | None = None) -> torch.Tensor:
    """Whether each element is kept, with the probability `share` to within 2**-24; bool [count]."""
    return _bits(key, start, count, device) < math.ceil(share * 2**_BITS)


def normal(key: int, count: int) -> torch.Tensor:
    """Numbers of the standard normal distribution (Box and Muller), float64 [count]."""
    first_N, second_N = (uniform(stream(key, part), 0, count).double() for part in ("radius", "angle"))
    radius_N = (-2 * torch.log1p(-first_N)).sqrt()
    return radius_N * torch.cos(2 * math.pi * second_N)


def _bits(key: int, start: int, count: int, device: torch.device | None) -> torch.Tensor:
    """24 bits for each element, int64 [count]."""
    z_N = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=device)
    z_N.mul_(_signed(_GAMMA)).add_(_signed(key))
    shifted_N = torch.empty_like(z_N)
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        z_N.bitwise_xor_(_shift_right(z_N, shift, shifted_N))
        if factor != 1:
            z_N.mul_(_signed(factor))
    return _shift_right(z_N, 64 - _BITS, z_N)


def _shift_right(z_N: torch.Tensor, places: int, out: torch.Tensor) -> torch.Tensor:
    """Of unsigned numbers: torch's own shift draws the sign after it."""
    torch.bitwise_right_shift(z_N, places, out=out)
    return out.bitwise_and_((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
