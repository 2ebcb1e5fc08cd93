"""The trainer's page: one Gradio tab that reads run folders, and the process that does the work."""
