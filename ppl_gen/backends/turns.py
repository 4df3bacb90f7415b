"""Threads take turns: both libraries' handlers, parameter stores and random states belong to the whole process."""

from __future__ import annotations

import threading

turn = threading.RLock()  # held while a program runs, by whatever runs it; another thread waits
