"""Learning a prefix from the webui's tab: on the loaded checkpoint, or on an own copy of one."""
