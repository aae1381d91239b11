"""The native CPU driver: the decoder in C++, compiled for this machine at first use.

    vector.hpp      sixteen floats, on AVX-512 or AVX2     pool.hpp        threads
    buffer.hpp      memory in huge pages                   blocks.hpp      weights of 4 and 8 bits in groups
    matrix.hpp      weights and activations as they lie    product.hpp     products in bfloat16
    levels.hpp      products in 8-bit integers             linear.hpp      a product of all rows of a step
    choice.hpp      the tokens a step is asked for         sampler.hpp     one token from logits
    cache.hpp       what a page holds, and how             segment.hpp     attention to one stretch of pages
    segment_tiles.hpp     the same by tiles of AMX         segment_levels.hpp    the same of pages in integers
    attention.hpp   attention of a step                    laps.hpp        where the time of steps goes
    step.cpp        a step, from token ids to tokens: what Python calls

Imports neither torch nor transformers.
"""
