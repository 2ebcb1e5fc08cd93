"""What a person looks at: sheets, curves, and a report that needs no other file."""
