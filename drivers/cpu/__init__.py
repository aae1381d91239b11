"""The native CPU driver: the decoder in C++, compiled for this machine at first use.

    vector.hpp      sixteen floats, on AVX-512 or AVX2     pool.hpp        threads
    buffer.hpp      memory in huge pages                   blocks.hpp      weights of 4 and 8 bits in groups
    matrix.hpp      weights, and products in bfloat16      levels.hpp      the same in 8-bit integers
    linear.hpp      a product of all rows of a step        sampler.hpp     one token from logits
    choice.hpp      the tokens a step is asked for         cache.hpp       what a page holds, and how
    segment.hpp     attention to one stretch of pages      segment_levels.hpp    the same of pages in 8-bit integers
    attention.hpp   attention of a step                    laps.hpp        where the time of steps goes
    step.cpp        a step, from token ids to tokens: what Python calls

Imports neither torch nor transformers.
"""
