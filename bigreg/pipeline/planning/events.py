"""The event loop of the simulation: one phase on some workers, compiled.

A scheduler, which does one thing at a time, hands blocks out and takes answers in. Whoever is free first takes a block
that was handed out, reads it, computes and writes. All transfers share one storage, which serves so many at full speed
and shares itself among more.
"""

from __future__ import annotations

import numpy as np

from ...jit import compiled

NONE = -1
SCHEDULER = -1  # among timed events; the others name the worker that has computed

# Rows of what a worker holds, a block or NONE: being read, read, being computed, computed, being written.
READING, READ, COMPUTING, COMPUTED, WRITING = range(5)


@compiled
def _push(keys, values, size, key, value):
    """Into a binary heap; returns its new size."""
    i = size
    while i > 0:
        up = (i - 1) // 2
        if keys[up] <= key:
            break
        keys[i], values[i] = keys[up], values[up]
        i = up
    keys[i], values[i] = key, value
    return size + 1


@compiled
def _pop(keys, values, size):
    """Drop the smallest; returns the new size."""
    size -= 1
    key, value = keys[size], values[size]
    i = 0
    while True:
        low = 2 * i + 1
        if low >= size:
            break
        if low + 1 < size and keys[low + 1] < keys[low]:
            low += 1
        if keys[low] >= key:
            break
        keys[i], values[i] = keys[low], values[low]
        i = low
    keys[i], values[i] = key, value
    return size


@compiled
def _take(last, cursor, passed, held_back, unmet, fresh, window):
    """The next block that can run, of the first stage that has one; NONE where all wait. See flow.Flow.take."""
    for s in range(len(last)):
        if fresh[s]:
            for place in range(held_back[s]):
                block = passed[s, place]
                if unmet[block] == 0:
                    for p in range(place, held_back[s] - 1):
                        passed[s, p] = passed[s, p + 1]
                    held_back[s] -= 1
                    return block
            fresh[s] = False
        while cursor[s] < last[s] and held_back[s] < window:
            block = cursor[s]
            cursor[s] += 1
            if unmet[block] == 0:
                return block
            passed[s, held_back[s]] = block
            held_back[s] += 1
    return NONE


@compiled
def run_phase(
    first, counts, links, tables, unmet, read, compute, write, workers, queued, overlap, streams, overhead, window
):
    """Simulate one phase.

    first, counts   (stages + 1,) number of each stage's first block; (stages, 3)
    links           (links, 5): stage that is read, stage that reads, and for z, y, x where in `tables` the first and
                    then the last + 1 reader of each block of the former stand
    unmet           (blocks,) int32, blocks that each waits for; used up
    read, compute, write   (blocks,) seconds, transfers alone at full speed
    queued          blocks handed out for each worker; overlap: reads and writes go on while it computes
    streams         transfers that the storage serves at full speed at once
    overhead        seconds of the scheduler a block
    window          blocks of a stage that may be passed over because they wait
    Returns (wall seconds, seconds along the longest chain of blocks, begin and end of each stage, blocks done).
    """
    stages, total = len(counts), len(unmet)
    first, last = first[:-1], first[1:]
    cursor = first.copy()
    passed = np.full((stages, window), NONE, np.int64)
    held_back = np.zeros(stages, np.int64)
    fresh = np.zeros(stages, np.bool_)
    begin, end = np.full(stages, np.inf), np.zeros(stages)
    chain = np.zeros(total, np.float64)
    longest = 0.0

    state = np.full((workers, 5), NONE, np.int64)
    queue, queue_head, waiting = np.zeros(workers * queued, np.int64), 0, 0
    # Workers that would take a block, the one that waits longest first.
    hungry, hungry_head, hungers = np.arange(workers), 0, workers
    is_hungry = np.ones(workers, np.bool_)

    times, kinds, timed = np.zeros(workers + 1), np.zeros(workers + 1, np.int64), 0
    due, moving, transfers = np.zeros(2 * workers), np.zeros(2 * workers, np.int64), 0
    answers, answer_head, answered = np.zeros(workers * queued, np.int64), 0, 0
    now, served = 0.0, 0.0  # the clock, and full-speed seconds that each running transfer has had since the start
    busy, serving, is_answer = False, NONE, False
    in_flight, done, stalled = 0, 0, False

    while done < total:
        # The scheduler: hand out what can be, then take an answer.
        if not busy:
            block = NONE
            if in_flight < workers * queued and not stalled:
                block = _take(last, cursor, passed, held_back, unmet, fresh, window)
                stalled = block == NONE
            if block != NONE:
                in_flight += 1
                busy, serving, is_answer = True, block, False
            elif answered > 0:
                serving = answers[answer_head]
                answer_head = (answer_head + 1) % len(answers)
                answered -= 1
                busy, is_answer = True, True
            if busy:
                timed = _push(times, kinds, timed, now + 0.5 * overhead, SCHEDULER)

        # The next event: a timer, or a transfer that ends.
        rate = 1.0 if transfers <= streams else streams / transfers
        stop = now + (due[0] - served) / rate if transfers > 0 else np.inf
        if timed == 0 and transfers == 0:
            break  # nothing goes on: blocks wait for one another in a circle
        touched = NONE
        if timed > 0 and times[0] <= stop:
            served += (times[0] - now) * rate
            now, what = times[0], kinds[0]
            timed = _pop(times, kinds, timed)
            if what != SCHEDULER:
                touched = what
                state[what, COMPUTED] = state[what, COMPUTING]
                state[what, COMPUTING] = NONE
            elif is_answer:
                busy = False
                stage = 0
                while serving >= last[stage]:
                    stage += 1
                end[stage] = now
                done += 1
                in_flight -= 1
                stalled = False
                chain[serving] += read[serving] + compute[serving] + write[serving] + overhead
                longest = max(longest, chain[serving])
                local = serving - first[stage]
                z = local // (counts[stage, 1] * counts[stage, 2])
                y = local // counts[stage, 2] % counts[stage, 1]
                x = local % counts[stage, 2]
                for k in range(len(links)):
                    if links[k, 0] != stage:
                        continue
                    reader = links[k, 1]
                    fresh[reader] = True
                    nz, ny, nx = counts[stage]
                    for i in range(tables[links[k, 2] + z], tables[links[k, 2] + nz + z]):
                        for j in range(tables[links[k, 3] + y], tables[links[k, 3] + ny + y]):
                            row = first[reader] + (i * counts[reader, 1] + j) * counts[reader, 2]
                            for m in range(tables[links[k, 4] + x], tables[links[k, 4] + nx + x]):
                                unmet[row + m] -= 1
                                chain[row + m] = max(chain[row + m], chain[serving])
            else:
                busy = False
                queue[(queue_head + waiting) % len(queue)] = serving
                waiting += 1
                if hungers > 0:
                    touched = hungry[hungry_head]
                    hungry_head = (hungry_head + 1) % workers
                    hungers -= 1
                    is_hungry[touched] = False
        else:
            now, served = stop, due[0]
            what = moving[0]
            transfers = _pop(due, moving, transfers)
            touched = what // 2
            if what % 2 == 0:
                state[touched, READ] = state[touched, READING]
                state[touched, READING] = NONE
            else:
                answers[(answer_head + answered) % len(answers)] = state[touched, WRITING]
                answered += 1
                state[touched, WRITING] = NONE

        # What the worker that was touched does next.
        if touched != NONE:
            own = state[touched]
            if own[WRITING] == NONE and own[COMPUTED] != NONE:
                own[WRITING] = own[COMPUTED]
                own[COMPUTED] = NONE
                transfers = _push(due, moving, transfers, served + write[own[WRITING]], 2 * touched + 1)
            if own[COMPUTING] == NONE and own[READ] != NONE and own[COMPUTED] == NONE:
                own[COMPUTING] = own[READ]
                own[READ] = NONE
                timed = _push(times, kinds, timed, now + compute[own[COMPUTING]], touched)
            idle = own[COMPUTING] == NONE and own[COMPUTED] == NONE and own[WRITING] == NONE
            if own[READING] == NONE and own[READ] == NONE and (overlap or idle) and not is_hungry[touched]:
                if waiting > 0:
                    own[READING] = queue[queue_head]
                    queue_head = (queue_head + 1) % len(queue)
                    waiting -= 1
                    stage = 0
                    while own[READING] >= last[stage]:
                        stage += 1
                    begin[stage] = min(begin[stage], now)
                    transfers = _push(due, moving, transfers, served + read[own[READING]], 2 * touched)
                else:
                    hungry[(hungry_head + hungers) % workers] = touched
                    hungers += 1
                    is_hungry[touched] = True
    return now, longest, begin, end, done
