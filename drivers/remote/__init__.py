"""Remote models: an OpenAI-compatible endpoint as a device without pages (kernel/slot.py).

    text.py        tokens that are their own text, and messages from them
    events.py      server-sent events out of bytes, all of it bounded
    answer.py      what an endpoint says, made sense of
    conversation.py    one request, its retries and its stream
    device.py      the thread with all requests under way

Imports neither numpy nor torch.
"""
