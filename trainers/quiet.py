"""Keep the engines' start-up chatter off the user's terminal.

Called once in every process that loads a model, before DeepSpeed is imported (PEFT imports it too). Only notices that
ask nothing of a user are silenced: errors, and our own lines, are not.
"""

from __future__ import annotations

import logging
import os
import warnings

RENAMED = (
    (r".*gradient_checkpointing.*is deprecated.*", FutureWarning),
    (r".*torch\.distributed\..* is deprecated.*", FutureWarning),
)
"""Notices of library names that will change, raised inside or because of DeepSpeed 0.19.8 and PEFT 0.21.2; they can go
with those."""


def quiet_libraries() -> None:
    """Silence device notices and info lines, transformers' loading bars, and renaming notices."""
    import torch
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("DeepSpeed", "bitsandbytes"):  # which misses a kernel for 4-bit CPUs
        logging.getLogger(name).setLevel(logging.ERROR)
    for message, category in RENAMED:
        warnings.filterwarnings("ignore", message=message, category=category)
