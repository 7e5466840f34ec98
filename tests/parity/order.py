"""The order in which Hearth sees rows (worker/src/data/order.rs), for whoever must see the same.

BLAKE3 (of at most one block) names a stream, ChaCha with 8 rounds makes its numbers, and Fisher
and Yates shuffle by them. Standard library only.
"""

import struct

_INITIAL = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)
_MESSAGE_ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
# Of one block that is a whole input: chunk's start and end, and root.
_WHOLE = 1 | 2 | 8
_DERIVE_CONTEXT, _DERIVE_MATERIAL = 32, 64
# Columns, then diagonals, of a 4 by 4 state.
_QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
             (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_CONTEXT = b"hearth.dev 2026 random streams"


def _turned(value, right):
    return (value >> right | value << (32 - right)) & 0xFFFFFFFF


def _blake3(text, key, flags):
    """Hash of at most 64 bytes under a key of 8 words, as 8 words."""
    assert len(text) <= 64
    words = list(struct.unpack("<16I", text.ljust(64, b"\0")))
    state = [*key, *_INITIAL[:4], 0, 0, len(text), flags | _WHOLE]
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(_QUARTERS):
            for word, first, second in ((words[2 * index], 16, 12), (words[2 * index + 1], 8, 7)):
                state[a] = (state[a] + state[b] + word) & 0xFFFFFFFF
                state[d] = _turned(state[d] ^ state[a], first)
                state[c] = (state[c] + state[d]) & 0xFFFFFFFF
                state[b] = _turned(state[b] ^ state[c], second)
        words = [words[source] for source in _MESSAGE_ORDER]
    return [low ^ high for low, high in zip(state[:8], state[8:])]


def _chacha8(key):
    """64-bit numbers of ChaCha with 8 rounds, nonce 0."""
    counter = 0
    while True:
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *key, counter & 0xFFFFFFFF, counter >> 32, 0, 0]
        state = list(start)
        for _ in range(4):
            for a, b, c, d in _QUARTERS:
                for first, second in ((16, 12), (8, 7)):
                    state[a] = (state[a] + state[b]) & 0xFFFFFFFF
                    state[d] = _turned(state[d] ^ state[a], 32 - first)
                    state[c] = (state[c] + state[d]) & 0xFFFFFFFF
                    state[b] = _turned(state[b] ^ state[c], 32 - second)
        block = [(one + other) & 0xFFFFFFFF for one, other in zip(state, start)]
        yield from (block[at] | block[at + 1] << 32 for at in range(0, 16, 2))
        counter += 1


def permutation(seed, epoch, rows):
    """Numbers of rows of an epoch in the order in which they are seen."""
    purpose = struct.pack("<qQ", seed, epoch) + b"epoch"
    context = _blake3(_CONTEXT, _INITIAL, _DERIVE_CONTEXT)
    numbers = _chacha8(_blake3(purpose, context, _DERIVE_MATERIAL))
    order = list(range(rows))
    for last in range(rows - 1, 0, -1):
        pick = next(numbers) % (last + 1)
        order[last], order[pick] = order[pick], order[last]
    return order


# The vector of the Rust test `the_order_is_the_same_on_every_machine_and_in_every_release`.
assert permutation(42, 3, 8) == [4, 6, 1, 2, 7, 0, 3, 5]
