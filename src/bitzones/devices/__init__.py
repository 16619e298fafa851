"""CPU, CUDA, NVML, energy, and retries when memory runs out."""
