"""Batches in the memory of a GPU. Loaded when one is asked for; needs NVIDIA's driver and NVRTC at run
time."""
