"""CPU, CUDA, NVML, energy, and the retry when memory runs out."""
