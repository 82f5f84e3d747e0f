"""Random numbers that depend on what they are for and on nothing else: not on order, threads, shards or device.

Two elements share a word: word j of a stream is the splitmix64 finaliser (Steele, Lea and Flood 2014,
doi:10.1145/2660193.2660195) of key + (j + 1) * 0x9E3779B97F4A7C15; its lower half is for element 2j, its upper half for
2j + 1, and of a half the lower 24 bits are the number. `key` is the first 8 bytes of SHA-256 of the seed and the
stream's name, an element's index its flat, row-major position in its tensor. All arithmetic is modulo 2**64, so that
any device gives the same bits. Shape suffixes: N elements, J words.
"""

import hashlib
import math
import sys

import torch

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
# Every value is a float32, and 1.0 is never drawn.
_BITS = 24


def stream(seed: int, *names: object) -> int:
    """The key of a stream of numbers: other names, other numbers."""
    text = "\x00".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def uniform(key: int, start: int, count: int, device: torch.device | None = None) -> torch.Tensor:
    """The numbers of the elements from `start`, in [0, 1), multiples of 2**-24, float32 [count]."""
    return _bits(key, start, count, device).to(torch.float32).mul_(2.0**-_BITS)


def keep(key: int, start: int, count: int, share: float, device: torch.device | None = None) -> torch.Tensor:
    """Whether each element is kept, with the probability `share` to within 2**-24; bool [count]."""
    return _bits(key, start, count, device).lt(limit(share))


def limit(share: float) -> int:
    """What the 24 bits of an element that is kept are below."""
    return math.ceil(share * float(1 << _BITS))


def normal(key: int, count: int) -> torch.Tensor:
    """Numbers of the standard normal distribution (Box and Muller), float64 [count]."""
    first_N, second_N = (uniform(stream(key, part), 0, count).double() for part in ("radius", "angle"))
    radius_N = (-2 * torch.log1p(-first_N)).sqrt()
    return radius_N * torch.cos(2 * math.pi * second_N)


def _bits(key: int, start: int, count: int, device: torch.device | None) -> torch.Tensor:
    """24 bits for each element, int32 [count]."""
    first, last = start // 2, (start + count + 1) // 2
    halves = _words(key, first, last - first, device).view(torch.int32)
    if sys.byteorder == "big":
        halves = halves.view(-1, 2).flip(1).reshape(-1)
    bits_N = halves[start - 2 * first :][:count]
    return bits_N.bitwise_and_((1 << _BITS) - 1)


def _words(key: int, first: int, count: int, device: torch.device | None) -> torch.Tensor:
    z_J = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device)
    z_J.mul_(_signed(_GAMMA)).add_(_signed(key))
    shifted_J = torch.empty_like(z_J)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        z_J.bitwise_xor_(_shift_right(z_J, shift, shifted_J)).mul_(_signed(factor))
    return z_J.bitwise_xor_(_shift_right(z_J, 31, shifted_J))


def _shift_right(z_J: torch.Tensor, places: int, out: torch.Tensor) -> torch.Tensor:
    """Of unsigned numbers: torch's own shift draws the sign after it."""
    torch.bitwise_right_shift(z_J, places, out=out)
    return out.bitwise_and_((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
