"""Running one job on a wgpu device of this process. The home of wgpu."""
