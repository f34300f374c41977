"""The few helpers that belong to nobody: errors, atomic files, device, seeding, where models lie.

Importing it sets the thread policy (``utils.cpu``); packages that load torch import it first.
"""
from utils.cpu import set_thread_policy

set_thread_policy()
