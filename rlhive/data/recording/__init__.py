"""How a recording lies on disk and is written: its folder, streams, writers, and how episodes come together.

The way in is data/record.
"""
