"""Shared helpers: errors, atomic files, run locks, devices, parallel maps, seeding.

Importing it sets the thread policy (``utils.cpu``); packages that load torch import it first.
"""
from utils.cpu import set_thread_policy

set_thread_policy()
