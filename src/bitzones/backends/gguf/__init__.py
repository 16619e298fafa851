"""llama.cpp's formats, measured by the values that their blocks stand for."""
