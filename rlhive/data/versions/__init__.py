"""What a version is made of and compared by: sources, views, numbers, cards, sketches. The way in is data/export."""
