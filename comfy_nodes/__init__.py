"""ComfyUI's nodes: thin classes over the core and ComfyUI's own text encoders."""
