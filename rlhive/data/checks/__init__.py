"""What is looked for in a version, and what was found. The way in is data/check."""
