"""MLX's affine formats, measured here and run by mlx-lm."""
