"""Learning a prefix on the model that ComfyUI has loaded."""
