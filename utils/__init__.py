"""The few helpers that belong to nobody: errors, atomic files, device, seeding, where models lie."""
