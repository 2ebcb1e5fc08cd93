"""Models behind the core's ports: CLIP text towers and diffusers U-Nets."""
