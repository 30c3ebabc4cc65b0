"""Formats of other libraries, one file each. Imports nothing by itself."""
