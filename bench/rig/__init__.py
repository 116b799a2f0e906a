"""The rig: programs on their cores, load, figures. Python's standard library, nothing else."""
