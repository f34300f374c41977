"""Importing motion capture: file formats, rigs, units, axes, and the body of HumanML3D."""
