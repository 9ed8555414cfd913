"""The longest common subsequence of two lists of words: fast, and the best among equals.

`longest_common_subsequence` searches over pairs of equal words, which are few in sentences, and
falls back on bit vectors where words repeat thousands of times. Both are exact in length.

Knows nothing of words, tags or completions: anything hashable will do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, cast

Words = Sequence[Hashable]
Node = tuple[int, int, Any]  # i, j, the node before it in the chain

# One pair of equal words costs about a microsecond in the exact search; beyond this many, bit
# vectors find the length in time that grows 64 times slower, and ties are broken on the way back.
MAX_PAIRS = 40_000
_MAX_BITS = 1 << 28  # 32 MB of rows are kept; beyond that every sqrt(N)th, at twice the time

_EQUAL, _ADJACENT, _PREFERRED = 1 << 60, 1 << 40, 1 << 20  # one number, compared level by level


def longest_common_subsequence(
    a: Words,
    b: Words,
    prefer: Callable[[int, int], bool] | None = None,
    bound: Collection[int] = (),
) -> list[tuple[int, int]]:
    """Match equal words in order: as many as possible, and neighbours with neighbours.

    Among all longest common subsequences the one is chosen in which most matched pairs follow
    each other directly on both sides; then the one with most preferred pairs and with most bound
    words next to each other; then the one with fewest shifts between matched runs. (The last two
    hold between the common head and tail, which are always matched.)

    Takes O(R log N) for R pairs of equal words, which is O(N log N) on ordinary sentences. Where
    words repeat so often that R passes 40,000, the length comes from bit vectors (Hyyrö 2004) in
    O(N * M / 64) time and O(M * sqrt(N)) memory; it is still the longest, but ties are then broken
    greedily, from the end.

    Args:
        a: Words, or anything hashable.
        b: The same.
        prefer: Says of a pair of equal words whether it is better than other equal ones.
        bound: Indices of words of `b` that belong together with the word before.

    Returns:
        Pairs `(i, j)` with `a[i] == b[j]`, increasing in both.

    Example:
        >>> longest_common_subsequence("the end of the line".split(), "the line".split())
        [(3, 0), (4, 1)]
    """
    start, stop_a, stop_b = _trim(a, b, bound)
    head = [(i, i) for i in range(start)]
    tail = [(stop_a + k, stop_b + k) for k in range(len(a) - stop_a)]
    if start == stop_a or start == stop_b:
        return head + tail
    positions: defaultdict[Hashable, list[int]] = defaultdict(list)
    for j in range(start, stop_b):
        positions[b[j]].append(j)
    rows = [(i, positions[a[i]]) for i in range(start, stop_a) if a[i] in positions]
    num_pairs = sum(len(js) for _, js in rows)
    if num_pairs <= MAX_PAIRS:
        middle = _chain(rows, (start, start), (stop_a, stop_b), len(a), prefer, bound)
    else:
        middle = _without_loops(a[start:stop_a], b[start:stop_b])
        middle = [(i + start, j + start) for i, j in middle]
    return head + middle + tail


def _trim(a: Words, b: Words, bound: Collection[int]) -> tuple[int, int, int]:
    """Common prefix length and where the common suffix starts in `a` and `b`.

    Matching a whole common prefix never costs a word. It can cost a pair of neighbours only if
    all of it occurs once more (`x` in `x x y` against `x y`), which one word that is unique on
    both sides rules out; the same for suffixes. Bound words are not cut apart.
    """
    size_a, size_b = len(a), len(b)
    shorter = min(size_a, size_b)
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    if start == size_a == size_b:
        return start, size_a, size_b
    counts: list[Counter[Hashable]] = []

    def has_unique(words: Words) -> bool:
        for word in words[:4]:
            if _count(a, word) == 1 == _count(b, word):
                return True
        if len(words) <= 4:
            return False
        if not counts:
            counts.extend((Counter(a), Counter(b)))
        return any(counts[0][word] == 1 == counts[1][word] for word in words)

    while start and start in bound:
        start -= 1
    if start and not has_unique(a[:start]):
        start = 0
    size = 0
    while size < shorter - start and a[size_a - 1 - size] == b[size_b - 1 - size]:
        size += 1
    while size and size_b - size in bound:
        size -= 1
    if size and not has_unique(a[size_a - size :]):
        size = 0
    return start, size_a - size, size_b - size


def _count(words: Words, word: Hashable) -> int:
    return words.count(word)


def _chain(
    rows: list[tuple[int, list[int]]],
    first: tuple[int, int],
    last: tuple[int, int],
    size: int,
    prefer: Callable[[int, int], bool] | None,
    bound: Collection[int],
) -> list[tuple[int, int]]:
    """The best chain of pairs of equal words: dynamic programming over the pairs alone.

    `columns`, `values` and `nodes` hold a staircase: the best chains so far by their last column,
    with strictly increasing values, so the best chain left of a column is one bisection away.
    `diagonal` holds the best chain that ends on each diagonal: going on there means that as many
    words were passed over on both sides. Before `first` and from `last` on, pairs are given,
    unless there is nothing (`first` is 0, `last` is `size` words long).
    """
    columns, values, nodes = [first[1] - 1], [0], cast("list[Node | None]", [None])
    diagonal: dict[int, tuple[int, Node | None]] = {first[0] - first[1]: (0, None)}
    before: dict[int, tuple[int, Node | None]] = {first[1] - 1: (0, None)} if first[0] else {}
    before_i = first[0] - 1
    for i, js in rows:
        row: dict[int, tuple[int, Node | None]] = {}
        is_next = before_i == i - 1
        for j in js:
            k = bisect_left(columns, j) - 1
            value, node = values[k], nodes[k]
            if (best := diagonal.get(i - j)) is not None and best[0] + 1 > value:
                value, node = best[0] + 1, best[1]
            if is_next and (best := before.get(j - 1)) is not None:
                near = best[0] + _ADJACENT + 1 + (_PREFERRED if j in bound else 0)
                if near > value:
                    value, node = near, best[1]
            value += _EQUAL
            if prefer is not None and prefer(i, j):
                value += _PREFERRED
            row[j] = (value, (i, j, node))
        for j, (value, node) in row.items():
            if diagonal.get(i - j, (-1, None))[0] < value:
                diagonal[i - j] = (value, node)
            k = bisect_left(columns, j)
            if values[k - 1] >= value:
                continue
            end = k
            while end < len(columns) and values[end] <= value:
                end += 1
            columns[k:end], values[k:end], nodes[k:end] = [j], [value], [node]
        before, before_i = row, i
    value, last_node = values[-1], nodes[-1]
    if (ending := diagonal.get(last[0] - last[1])) is not None and ending[0] + 1 > value:
        value, last_node = ending[0] + 1, ending[1]
    if last[0] < size and before_i == last[0] - 1:
        touching = before.get(last[1] - 1, (0, None))
        if touching[0] + _ADJACENT + 1 > value and last[1] - 1 in before:
            last_node = touching[1]
    return _trace(last_node)


def _trace(node: Node | None) -> list[tuple[int, int]]:
    pairs = []
    while node is not None:
        i, j, node = node
        pairs.append((i, j))
    return pairs[::-1]


def _without_loops(a: Words, b: Words) -> list[tuple[int, int]]:
    """Cut the middle out of runs of one word that are longer than they can be of use.

    A word that `a` has k times can match at most k of a run in `b`: the first k and the last k of
    the run, with a wall between, allow all that the whole run allows.
    """
    index_a, short_a = _shorten(a, Counter(b))
    index_b, short_b = _shorten(b, Counter(a))
    counts = Counter(short_b)
    if sum(counts[word] for word in short_a) <= MAX_PAIRS:
        positions: defaultdict[Hashable, list[int]] = defaultdict(list)
        for j, word in enumerate(short_b):
            positions[word].append(j)
        rows = [(i, positions[word]) for i, word in enumerate(short_a) if word in positions]
        size = len(short_a)
        pairs = _chain(rows, (0, 0), (size, len(short_b)), size, None, ())
    else:
        pairs = match_by_bits(short_a, short_b)
    return [(index_a[i], index_b[j]) for i, j in pairs]


def _shorten(words: Words, useful: Counter[Hashable]) -> tuple[list[int], list[Hashable]]:
    kept: list[int] = []
    out: list[Hashable] = []
    start = 0
    while start < len(words):
        stop = start
        while stop < len(words) and words[stop] == words[start]:
            stop += 1
        limit = useful[words[start]]
        if stop - start <= 2 * limit + 1:
            kept += range(start, stop)
            out += words[start:stop]
        else:
            kept += [*range(start, start + limit), start, *range(stop - limit, stop)]
            out += [words[start]] * limit + [object()] + [words[start]] * limit
        start = stop
    return kept, out


def match_by_bits(a: Words, b: Words) -> list[tuple[int, int]]:
    """Longest common subsequence with one bit a word of `b`.

    A zero at bit j of row i says that the length grows from column j to j + 1.
    """
    masks: dict[Hashable, int] = {}
    for j, word in enumerate(b):
        masks[word] = masks.get(word, 0) | 1 << j
    ones = (1 << len(b)) - 1
    size = max(1, len(a))
    step = size if size * len(b) <= _MAX_BITS else max(1, int(size**0.5))

    def rows_from(row: int, start: int, stop: int) -> list[int]:
        rows = [row]
        for i in range(start, stop):
            if mask := masks.get(a[i]):
                used = row & mask
                row = (row + used) | (row ^ used)
                if not i % 64:  # a carry adds a bit above the last column, which harms nothing
                    row &= ones
            rows.append(row)
        return rows

    kept, blocks = [ones], {}
    for number, start in enumerate(range(0, len(a), step)):
        blocks = {number: rows_from(kept[-1], start, min(start + step, len(a)))}
        kept.append(blocks[number][-1] & ones)
    pairs: list[tuple[int, int]] = []
    i, j = len(a), len(b)
    while i and j:
        block = (i - 1) // step
        if block not in blocks:
            stop = min((block + 1) * step, len(a))
            blocks = {block: rows_from(kept[block], block * step, stop)}
        if a[i - 1] == b[j - 1]:  # taking an equal pair at the end never costs a word
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif blocks[block][i - block * step] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
    return pairs[::-1]
