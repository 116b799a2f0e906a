"""The rig: programs pinned to cores, load, figures. Uses only Python's standard library."""
