"""The random order of an epoch, computed for any of its positions: nothing is kept that grows with the epoch.

The permutation is a Feistel network (Luby and Rackoff, 1988) of eight half rounds over pairs of digits, so that every
item takes the same few operations, whichever rank asks for it::

    position     left · 2^bits + right         0 <= left < base, 0 <= right < 2^bits, base · 2^bits >= num_items
    half round   left  = (left + hash of right) mod base
    half round   right = right xor hash of left
    item         left · 2^bits + right         permuted again while it is no item (Black and Rogaway, 2002)
"""

from typing import Any

import numpy as np
import torch

#: Number of items up to which the permutation is torch's own, drawn uniformly from all permutations.
MAX_DRAWN = 2**16
_NUM_ROUNDS = 4
#: Odd factors of the hash, by the bits of a word: those of lowbias32 (C. Wellons) and of splitmix64.
_FACTORS = {32: (0x7FEB352D, 0x846CA68B), 64: (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)}


class RandomOrder:
    """A random permutation of ``0 … num_items - 1``.

    Memory: 0.5 MB at most, for any number of items.

    Args:
        num_items: Number of items.
        seed: Seed of the permutation.
    """

    def __init__(self, num_items: int, seed: int):
        self._drawn: np.ndarray[Any, Any] | None = None
        if num_items <= MAX_DRAWN:
            generator = torch.Generator("cpu").manual_seed(seed)
            self._drawn = torch.randperm(num_items, generator=generator, device="cpu").numpy()
            return
        word_bits = 32 if num_items <= 2**32 else 64
        self._word = np.dtype(f"uint{word_bits}").type
        self._num_items = num_items
        self._bits = (num_items - 1).bit_length() // 2
        self._base = self._word(-(-num_items // 2**self._bits))
        self._keys = np.random.SeedSequence(seed).generate_state(2 * _NUM_ROUNDS, self._word).reshape(-1, 2)

    def items(self, positions: np.ndarray) -> np.ndarray:
        """Return the items at some positions, int64.

        Args:
            positions: int64 ``[n]``, each from 0 to ``num_items - 1``.
        """
        if self._drawn is not None:
            return self._drawn[positions]
        items = self._permute(positions.astype(self._word))
        while len(outside := np.flatnonzero(items >= self._num_items)):
            items[outside] = self._permute(items[outside])
        return items.astype(np.int64)

    def _permute(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers ``0 … base · 2^bits - 1`` that some of them are mapped to."""
        bits, word_bits = self._bits, 8 * numbers.itemsize
        left, right = numbers >> self._word(bits), numbers & self._word(2**bits - 1)
        for key_of_right, key_of_left in self._keys:
            step = self._hash(right, key_of_right)
            step >>= self._word(word_bits // 2)
            step *= self._base
            step >>= self._word(word_bits // 2)
            left += step
            np.minimum(left, np.subtract(left, self._base, out=step), out=left)  # a negative difference is a huge word
            step = self._hash(left, key_of_left)
            step >>= self._word(word_bits - bits)
            right ^= step
        left <<= self._word(bits)
        left |= right
        return left

    def _hash(self, digits: np.ndarray, key: np.unsignedinteger[Any]) -> np.ndarray:
        """Return words whose high bits depend on all bits of digits and key."""
        word_bits = 8 * digits.itemsize
        first, second = (self._word(factor) for factor in _FACTORS[word_bits])
        words = digits + key
        words *= first
        words ^= words >> self._word(word_bits // 2 - 1)
        words *= second
        return words
