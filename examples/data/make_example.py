#!/usr/bin/env python3
# make_example.py - makes text.safetensors (softmax attention) and linear.safetensors (linear attention) from an English text.
# SPDX-License-Identifier: Apache-2.0
"""A text of our own is cut into words; words become vectors by a fixed random embedding, vectors become q, k, v by fixed
random projections, and q, k of the softmax file get rotary positions. Needs numpy only; the same on every run up to rounding."""
import json
import pathlib
import struct

import numpy

SENTENCES = """
A river is a sequence of drops, and each drop has heard of every drop before it.
The letter that arrives last can answer all the letters that came earlier.
Nobody reads a long book at once, so we give each reader a chapter and let them talk.
The first reader knows the beginning, the last reader knows the end, and the middle is full of questions.
When a question travels down the shelf, every reader adds what their own chapter says about it.
An answer is a weighted mean, and the weights are decided by how well a question fits a key.
If you keep the largest score and the sum of the rest, you can join two answers without reading them again.
The old ferryman counted stones in the morning and waves in the evening, and both numbers were always even.
Rain falls on the hills, the hills feed the brook, the brook feeds the mill, and the mill grinds the corn.
A mill wheel does not remember the water, yet the flour remembers the wheel.
She wrote the date at the top of the page, then the place, then nothing for a long while.
The train leaves at seven, stops at nine bridges, and is never late on a Tuesday.
Four clerks share one long table, and each of them keeps a quarter of the register.
To find a name they pass the ledgers to the right until every clerk has seen every page.
One of them is tired of waiting, so he sends his questions around instead of the ledgers.
Another copies all the ledgers to her desk, which is quick as long as the desk is large.
The fourth proposes that each clerk should look after certain initials rather than certain years.
All of them obtain the same answer, and they argue only about who carries how much paper.
Night comes to the harbour in small pieces, first the masts, then the ropes, then the water.
The lighthouse says one short word, waits, and says it again to whoever is there.
A child on the pier tries to count the words and falls asleep at forty.
What you forget slowly is a state, and what you forget at once is a window.
Every season multiplies the memory of the last one by a number a little below one.
The gardener does not know the date, but he knows how many frosts there have been.
If the gate is open the past walks in, and if the gate is shut the past waits outside.
Two brothers divided a field into long stripes so that both would have sun and shade.
Their cousins folded the field in the middle, and each took one strip from the near end and one from the far end.
It was fair, because the far strips were hard work and the near strips were easy.
The surveyor measured everything twice and wrote the smaller error in red.
A rumour goes around the ring of villages and returns as a story about somebody else.
Between the villages the road is narrow, and only one cart at a time may cross each bridge.
While the cart is on the road the villagers bake, so nobody notices how long the journey takes.
Only when the bread is done before the cart arrives do they look out of the window.
The archive burned, but the copies of the copies agreed in every place that mattered.
A comma in the wrong column once cost the kingdom eleven barrels of salt.
The clockmaker gave each apprentice a different hour and asked for the same minute.
Some words see the whole sentence, some see only what came before, and some see their neighbours alone.
A wall between two documents is also a kind of kindness, because it keeps their secrets apart.
The last page thanked everyone by name, in the order in which they had been forgotten.
After that the river went on, as rivers do, carrying the sequence to the sea.
"""

NUM_TOKENS = 512


def words_of_text(count):
    """`count` words. The sentences come round again in a stride that is prime to their number: a long text, never quite the same order."""
    sentences = [line for line in SENTENCES.strip().splitlines()]
    words = []
    for turn in range(10_000):
        words += sentences[(turn * 7 + turn // len(sentences)) % len(sentences)].lower().replace(",", " ,").replace(".", " .").split()
        if len(words) >= count:
            return words[:count]
    raise ValueError("the text is too short")


def embed(words, width, generator):
    """A fixed random vector per word, mixed a little with the words before it, so that neighbours resemble each other."""
    table = {word: generator.standard_normal(width) for word in sorted(set(words))}
    rows = numpy.stack([table[word] for word in words])
    for distance, weight in ((1, 0.4), (2, 0.2)):
        rows[distance:] += weight * rows[:-distance]
    return rows / numpy.sqrt((rows**2).mean(axis=1, keepdims=True))


def project(rows, num_heads, dim, generator):
    """(N, width) -> (1, N, heads, dim), deviation about 1."""
    weights = generator.standard_normal((rows.shape[1], num_heads * dim)) / numpy.sqrt(rows.shape[1])
    return (rows @ weights).reshape(1, rows.shape[0], num_heads, dim)


def rotary(x):
    """Rotary position embedding, halves form."""
    num_tokens, half = x.shape[1], x.shape[3] // 2
    angles = numpy.arange(num_tokens)[:, None] * 10000.0 ** (-numpy.arange(half) / half)[None, :]
    cos, sin = numpy.cos(angles)[None, :, None, :], numpy.sin(angles)[None, :, None, :]
    a, b = x[..., :half], x[..., half:]
    return numpy.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def as_bf16(x):
    """Upper halves of floats, rounded to nearest even."""
    word = x.astype("<f4").view("<u4").astype(numpy.uint64)
    return ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, array)}."""
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for _, array in tensors.values()))
    print(f"{path.name}: {path.stat().st_size} bytes:", {name: (dtype, array.shape) for name, (dtype, array) in tensors.items()})


def main():
    folder = pathlib.Path(__file__).parent
    words = words_of_text(NUM_TOKENS)
    generator = numpy.random.Generator(numpy.random.PCG64(1))
    rows = embed(words, 256, generator)
    bf16 = lambda x: ("BF16", as_bf16(x))

    q, k, v = (project(rows, heads, 32, generator) for heads in (8, 4, 4))
    dout = project(rows, 8, 32, generator)
    write_safetensors(folder / "text.safetensors", {"q": bf16(rotary(q)), "k": bf16(rotary(k)), "v": bf16(v), "dout": bf16(dout)})

    q, k, v, gate, dout = (project(rows, 4, 24, generator) for _ in range(5))
    log_decay = -numpy.log1p(numpy.exp(-(gate + 3)))  # log of sigmoid: gates mostly near 1
    k /= numpy.sqrt((k**2).sum(axis=-1, keepdims=True))
    write_safetensors(folder / "linear.safetensors",
                      {"q": bf16(q), "k": bf16(k), "v": bf16(v), "log_decay": ("F32", log_decay.astype("<f4")), "dout": bf16(dout)})


if __name__ == "__main__":
    main()
