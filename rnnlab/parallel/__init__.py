"""Processes, devices, the mesh, memory, and the compiler's known faults."""
